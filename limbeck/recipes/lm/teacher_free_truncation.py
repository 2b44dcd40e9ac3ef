"""Teacher-free distillation: some layers of a deep model go on learning the language; the deep model is not asked."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.parts.token import cross_entropy, forward_kl
from limbeck.parts.truncated import both_ends, even, first, last, max_gap, truncated
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, frozen

CHOICES = {"first": first(), "last": last(), "both-ends": both_ends(), "even": even(), "max-gap": max_gap()}

recipe = Recipe(
    key="teacher-free-truncation", title="Large Language Model Distillation Doesn't Need a Teacher",
    paper="arXiv:2305.14864", family="lm", kind="method", learns="student weights", teacher="white-box",
    players={"student": built(truncated(), adamw(lr=cosine(start=3e-4, warmup=0.05))), "teacher": frozen()},
    stages=(Learn("distill", (Phase("student", ("student",), cross_entropy()),), steps=40_000, batch_size=32, clip=1.0),),
    variants={
        **{name: {"student.builder.choice": choice} for name, choice in CHOICES.items()},
        "vanilla-kd": {"distill.student.loss": terms(labels=0.5 * cross_entropy(), teacher=0.5 * forward_kl())},
    },
    deviates=(
        "half of the layers, at both ends: the paper tries several choices, and which is its best was not at hand",
        "rate, steps and batch size are those of the other recipes for language models",
        "the teacher is given for its layers; no step runs it, but for the variant that the paper compares with",
    ),
)  # fmt: skip
