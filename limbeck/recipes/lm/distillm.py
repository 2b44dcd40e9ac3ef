"""DistiLLM: a skewed divergence, on given answers and, as the student comes to need them, on its own, new and kept."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.replay import adaptive, hold_out, replay
from limbeck.parts.rollout import rollout
from limbeck.parts.schedule import cosine
from limbeck.parts.token import skew_forward_kl, skew_reverse_kl
from limbeck.recipe import Learn, Phase, Recipe, Solve
from limbeck.recipes.baselines.sft import warm_up
from limbeck.roles import built, frozen, learning

states = adaptive(on_policy=rollout(max_new_tokens=256), checks=20, eps=0.1, rise=0.1)

recipe = Recipe(
    key="distillm", title="DistiLLM: Towards Streamlined Distillation for Large Language Models",
    paper="arXiv:2402.03898", family="lm", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=cosine(start=5e-4), weight_decay=0.01)), "teacher": frozen(),
        "replay": built(replay(capacity=1000, width=512, held=1000, share=0.0)),
    },
    stages=(
        warm_up,
        Solve("hold", hold_out(), ("replay",), data="valid"),
        Learn(
            "distill", (Phase("student", ("student",), skew_forward_kl(alpha=0.1), batch=states),),
            epochs=20.0, batch_size=32, clip=1.0,
        ),
    ),
    variants={"skew-reverse-kl": {"distill.student.loss": skew_reverse_kl(alpha=0.1)}},
    deviates=(
        "without the language-modelling term on pre-training text, which is another data set",
        "a batch of 32: the script has 8 on each of a number of devices that it leaves open",
        "all processes share one memory and one draw a step; in the public code each has its own",
    ),
)  # fmt: skip
