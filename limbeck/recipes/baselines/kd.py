"""Supervised distillation: the teacher's whole distribution on given answers."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.parts.token import forward_kl, sequence_mean
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.recipes.baselines.sft import warm_up
from limbeck.roles import frozen, learning

recipe = Recipe(
    key="kd",
    title="Distilling the Knowledge in a Neural Network",
    paper="arXiv:1503.02531",
    family="baselines",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={"student": learning(adamw(lr=cosine(start=3e-4, warmup=0.05))), "teacher": frozen()},
    stages=(
        warm_up,
        Learn(
            "distill",
            phases=(Phase("student", learns=("student",), loss=sequence_mean() * forward_kl()),),
            steps=40_000,
            batch_size=32,
        ),
    ),
    deviates=("token by token on answers, at temperature 1 and without the labels' own loss: the usual form for text",),
)
