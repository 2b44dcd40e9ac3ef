"""CurioSFT: imitate experts while being drawn towards one's own recent past, flattened where it was open anyway."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.exploration import flattened_forward_kl, flattened_square
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.parts.token import cross_entropy
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import ema_of, learning

loss = terms(expert=cross_entropy(), curious=1.0 * flattened_square().on(teacher="past"))

recipe = Recipe(
    key="curiosft",
    title="Learning While Staying Curious: Entropy-Preserving Supervised Fine-Tuning via Adaptive Self-Distillation "
    "for Large Reasoning Models",
    paper="arXiv:2602.02244", family="lm", kind="method", learns="student weights", teacher="self",
    players={
        "student": learning(adamw(lr=cosine(start=1e-5, end=1e-9, warmup=0.1))),
        "past": ema_of("student", decay=0.01, every=5),
    },
    stages=(Learn("distill", (Phase("student", ("student",), loss),), epochs=3.0, batch_size=256),),
    variants={
        "full-kl": {"distill.student.loss.curious": flattened_forward_kl().on(teacher="past")},
        "imitation": {"distill.student.loss.curious.weight": 0.0},
    },
)  # fmt: skip
