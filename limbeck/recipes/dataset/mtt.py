"""MTT: a few images on which a net learns what experts learnt from all of them, step for step."""

from __future__ import annotations

from limbeck.parts.optimizer import sgd
from limbeck.parts.synthetic import begin_at, learnt_rate, learnt_rows, real_rows, write_rows
from limbeck.parts.trajectory_matching import expert_trajectories, trajectory_distance
from limbeck.probes.dataset import retrained_accuracy
from limbeck.recipe import Learn, Make, Measure, Phase, Recipe, Solve
from limbeck.roles import built, frozen

match = Phase("rows", learns=("images", "rate"), loss=trajectory_distance())

recipe = Recipe(
    key="mtt",
    title="Dataset Distillation by Matching Training Trajectories",
    paper="arXiv:2203.11932",
    family="dataset",
    kind="method",
    learns="synthetic images, inner step size",
    teacher="white-box",
    players={
        "student": frozen(),
        "images": built(learnt_rows(), sgd(lr=1000.0, momentum=0.5)),
        "rate": built(learnt_rate(), sgd(lr=1e-5, momentum=0.5)),
    },
    stages=(
        Make("experts", expert_trajectories(), into="trajectories", chunk=0),
        Make("choose", real_rows(), into="chosen", chunk=0),
        Solve("begin", begin_at(), learns=("images",), data="chosen"),
        Learn("match", (match,), steps=5000, batch_size=1, data="trajectories"),
        Make("write", write_rows(), into="synthetic", chunk=0),
        Measure("examine", {"accuracy": retrained_accuracy()}),
    ),
    product="synthetic",
    deviates=("no ZCA whitening and no augmentation of images, neither for the experts nor for the synthetic rows",),
)
