"""GKD: learn on one's own answers, from the teacher's whole distribution, by a divergence of one's choice."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import mixed, rollout
from limbeck.parts.schedule import cosine
from limbeck.parts.token import jsd, sequence_mean
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.recipes.baselines.sft import warm_up
from limbeck.roles import frozen, learning

recipe = Recipe(
    key="gkd", title="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
    paper="arXiv:2306.13649", family="lm", kind="method", learns="student weights", teacher="white-box",
    players={"student": learning(adamw(lr=cosine(start=3e-4, warmup=0.05))), "teacher": frozen()},
    stages=(
        warm_up,
        Learn(
            "distill",
            phases=(
                Phase(
                    "student", learns=("student",), batch=mixed(on_policy=rollout(max_new_tokens=64), share=1.0),
                    loss=sequence_mean() * jsd(beta=0.9),
                ),
            ),
            steps=40_000, batch_size=32,
        ),
    ),
    variants={
        "mixed": {"distill.student.batch.share": 0.5}, "supervised": {"distill.student.batch.share": 0.0},
        "jsd-0.1": {"distill.student.loss.beta": 0.1}, "jsd-0.5": {"distill.student.loss.beta": 0.5},
        "forward-kl": {"distill.student.loss.beta": 0.0}, "reverse-kl": {"distill.student.loss.beta": 1.0},
    },
    deviates=(
        "AdamW with a cosine instead of Adafactor, whose rate is constant before it falls: the loop's usual optimiser",
        "beta = 0 and 1 give forward and reverse KL, the limits of JSD / beta and JSD / (1 - beta), where JSD is 0",
    ),
)  # fmt: skip
