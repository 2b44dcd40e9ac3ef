"""SeqKD: imitate answers that the teacher gave."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import rollout
from limbeck.parts.schedule import cosine
from limbeck.recipe import Learn, Make, Recipe
from limbeck.recipes.baselines.sft import imitate, warm_up
from limbeck.roles import frozen, learning

recipe = Recipe(
    key="seqkd",
    title="Sequence-Level Knowledge Distillation",
    paper="arXiv:1606.07947",
    family="baselines",
    kind="method",
    learns="student weights",
    teacher="black-box",
    players={"student": learning(adamw(lr=cosine(start=3e-4, warmup=0.05))), "teacher": frozen()},
    stages=(
        warm_up,
        Make("ask", rows=rollout(max_new_tokens=64).on(student="teacher"), into="answers"),
        Learn("distill", phases=imitate, steps=40_000, batch_size=32, data="answers"),
    ),
    deviates=("one sample at temperature 1 for each prompt instead of the best of a beam search",),
)
