"""DistillSpec: a draft learns on its own texts to say what its target would keep."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import mixed, rollout
from limbeck.parts.schedule import cosine
from limbeck.parts.token import forward_kl, jsd, reverse_kl, sequence_mean, total_variation
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.recipes.baselines.sft import warm_up
from limbeck.roles import frozen, learning

recipe = Recipe(
    key="distillspec", title="DistillSpec: Improving Speculative Decoding via Knowledge Distillation",
    paper="arXiv:2310.08461", family="lm", kind="method", learns="draft weights", teacher="white-box",
    players={"student": learning(adamw(lr=cosine(start=3e-4, warmup=0.05))), "teacher": frozen()},
    stages=(
        warm_up,
        Learn(
            "distill",
            phases=(
                Phase(
                    "student", learns=("student",), batch=mixed(on_policy=rollout(max_new_tokens=64), share=1.0),
                    loss=sequence_mean() * total_variation(),
                ),
            ),
            steps=300_000, batch_size=32,
        ),
    ),
    variants={
        "forward-kl": {"distill.student.loss": sequence_mean() * forward_kl()},
        "reverse-kl": {"distill.student.loss": sequence_mean() * reverse_kl()},
        "jsd": {"distill.student.loss": sequence_mean() * jsd(beta=0.5)},
        "teacher-data": {"distill.student.batch.on_policy": rollout(max_new_tokens=64).on(student="teacher")},
        "given-data": {"distill.student.batch.share": 0.0},
        "mixed": {"distill.student.batch.share": 0.5},
    },
    deviates=(
        "the paper chooses the divergence task by task; ours is total variation, the share of proposals refused",
        "AdamW with a cosine to nothing instead of Adafactor with a cosine to a tenth: the loop's usual optimiser",
        "lossless decoding only: no lenience in what the target keeps, and no first distillation of the target itself",
    ),
)  # fmt: skip
