"""ULD: imitate given answers, with next-token probabilities of the sizes of the teacher's, whose tokens are others."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.chunks import in_teacher_tokens, ordered_distance
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.parts.token import cross_entropy
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.recipes.baselines.sft import warm_up
from limbeck.roles import frozen, learning

loss = terms(text=cross_entropy(), ordered=1.5 * ordered_distance())

recipe = Recipe(
    key="uld",
    title="Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
    paper="arXiv:2402.12030",
    family="baselines",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={"student": learning(adamw(lr=cosine(start=3e-4, warmup=0.05))), "teacher": frozen()},
    stages=(
        warm_up,
        Make("align", rows=in_teacher_tokens(), into="aligned"),
        Learn("distill", (Phase("student", ("student",), loss),), steps=40_000, batch_size=32, data="aligned"),
    ),
    deviates=("the objective only: size and rate of the run are those of the recipes that it is compared with",),
)
