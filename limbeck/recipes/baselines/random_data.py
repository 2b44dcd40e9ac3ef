"""Random data: rows of each class chosen at random stand for the whole data."""

from __future__ import annotations

from limbeck.parts.synthetic import real_rows
from limbeck.probes.dataset import retrained_accuracy
from limbeck.recipe import Make, Measure, Recipe
from limbeck.roles import frozen

recipe = Recipe(
    key="random-data",
    title="Dataset Distillation",
    paper="arXiv:1811.10959",
    family="baselines",
    kind="method",
    learns="nothing",
    teacher="none",
    players={"student": frozen()},
    stages=(
        Make("choose", real_rows(), into="synthetic", chunk=0),
        Measure("examine", {"accuracy": retrained_accuracy()}),
    ),
    product="synthetic",
    deviates=("the baseline only, with a step size that is tuned",),
)
