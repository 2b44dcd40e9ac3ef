"""MTT: a few images on which a net learns what experts learnt from all of them, step for step."""

from __future__ import annotations

from limbeck.parts.optimizer import adam, sgd
from limbeck.parts.synthetic import begin_at, learnt_rate, learnt_rows, real_rows, write_rows
from limbeck.parts.trajectory_matching import expert_trajectories, trajectory_distance
from limbeck.probes.dataset import retrained_accuracy
from limbeck.recipe import Arm, Claim, Learn, Make, Measure, Phase, Recipe, Solve, Tune, more
from limbeck.roles import built, frozen

match = Phase("rows", learns=("images", "rate"), loss=trajectory_distance())
RATES = (0.1, 0.2, 0.3, 0.4)
BEGINS, CHOICES = {"rate.builder.start": RATES}, {"choose.rows.lr": RATES}
CENTRES = {"choose.rows": tuple(f"class_centres(per_class=1, lr={rate})" for rate in RATES)}
TOY = {
    **{"experts.rows": expert_trajectories(experts=8, epochs=12, lr=0.5, batch_size=100), "choose.rows.per_class": 1},
    **{"match.rows.loss": trajectory_distance(steps=15, ahead=1, starts=10), "match.steps": 200, "match.batch_size": 2},
    **{"images.builder.per_class": 1, "images.optimizer.lr": 0.3, "match.clip": 0.5, "rate.optimizer": adam(lr=1e-3)},
}

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
    claim=Claim(
        bed="digits",
        arms={
            "mtt": Arm(),
            "k-means": Arm("random-data"),
            "random": Arm("random-data"),
            "images stand still": Arm(set={"images.optimizer.lr": 0.0}),
        },
        probes={"accuracy": retrained_accuracy()},
        says=(more("accuracy", "mtt", "k-means", by=0.03), more("accuracy", "mtt", "random", by=0.1)),
        set=TOY,
        tune=Tune("accuracy", {"mtt": BEGINS, "images stand still": BEGINS, "k-means": CENTRES, "random": CHOICES}),
        control="images stand still",
    ),
)
