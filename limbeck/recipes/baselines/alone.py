"""Alone: the student learns its classes from labels, without a teacher."""

from __future__ import annotations

from limbeck.parts.classification import cross_entropy
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import learning

recipe = Recipe(
    key="alone",
    title="ImageNet Classification with Deep Convolutional Neural Networks",
    paper="https://doi.org/10.1145/3065386",
    family="baselines",
    kind="method",
    learns="student weights",
    teacher="none",
    players={"student": learning(adamw(lr=cosine(start=1e-3, warmup=0.05)))},
    stages=(Learn("distill", (Phase("student", ("student",), cross_entropy()),), epochs=100, batch_size=128),),
    deviates=("the objective only: size and rate of the run are those of the recipes that it is compared with",),
)
