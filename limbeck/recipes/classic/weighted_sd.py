"""Weighted self-distillation: every generation learns a mixture of the labels and of its predecessor's predictions.

The weight of the labels is not searched for: what a fit to the labels and a fit to the predecessor alone say of
held-out rows makes the best mixture of the two a projection, at two trainings a generation.
"""

from __future__ import annotations

from limbeck.part import Expr
from limbeck.parts.likelihood import (
    ground_truth_weight,
    imitation,
    imitation_weight,
    likelihood,
    mixture,
    optimal_weight,
)
from limbeck.parts.optimizer import sgd
from limbeck.probes.regression import gap_to_ridge, mse
from limbeck.recipe import Arm, Claim, Learn, Phase, Recipe, Repeat, Solve, less, within
from limbeck.roles import built, copy_of, learning

ROWS = 30  # of the bed; weight decay there is penalty / ROWS


def fit(loss: Expr) -> Learn:
    """A training from scratch."""
    return Learn("fit", (Phase("student", ("student",), loss),), epochs=75, batch_size=128, fresh=("student",))


def at(penalty: float, weight: float | None = None, generations: int = 1) -> Arm:
    """An arm at a given penalty, with the weight of the labels given too, or estimated."""
    given = {"mix.builder.weight": weight, "weigh.steps": 0, "generations.imitate.fit.steps": 1}
    sizes = {"student.optimizer.weight_decay": penalty / ROWS, "generations.times": generations}
    return Arm(set=sizes if weight is None else {**given, **sizes})


recipe = Recipe(
    key="weighted-sd",
    title="Even your Teacher Needs Guidance: Ground-Truth Targets Dampen Regularization Imposed by Self-Distillation",
    paper="arXiv:2102.13088", family="classic", kind="method", learns="student weights", teacher="self",
    players={
        "student": learning(sgd(lr=0.05, momentum=0.9, weight_decay=1e-4)), "first": copy_of("student"),
        "teacher": copy_of("student"), "echo": copy_of("student"), "mix": built(mixture()),
    },
    stages=(
        Repeat("labels", (fit(likelihood()),), carry={"first": "student", "teacher": "student"}),
        Repeat(
            "generations",
            (
                Repeat("imitate", (fit(imitation()),), carry={"echo": "student"}),
                Solve("weigh", optimal_weight(), learns=("mix",), data="valid"),
                fit(ground_truth_weight() * likelihood() + imitation_weight() * imitation()),
            ),
            carry={"teacher": "student"},
        ),
    ),
    deviates=("F, the fit to the labels, is the first generation in every round: it is the same problem each time",),
    claim=Claim(
        bed="sines",
        arms={
            "estimated": at(1.0), "labels": at(1.0, weight=1.0), "imitation": at(1.0, weight=0.0),
            "estimated, weak penalty": at(0.03), "labels, weak penalty": at(0.03, weight=1.0),
            "eight generations": at(1.0, weight=0.5, generations=8),
        },
        probes={"mse": mse(), "gap": gap_to_ridge(penalty=1.0 / 0.5)},
        says=(
            less("mse", "estimated", "imitation", by=0.03), less("mse", "estimated", "labels", by=0.01),
            less("mse", "estimated, weak penalty", "labels, weak penalty", by=0.005),
            within("gap", "eight generations", 5e-3),
        ),
        set={
            f"{stage}.fit.{field}": value
            for stage in ("labels", "generations.imitate", "generations")
            for field, value in {"steps": 150, "batch_size": ROWS}.items()
        }
        | {"student.optimizer.lr": 6.0},
        seeds=8, control="imitation",
        no_tune="the question is what mixing does at a given penalty, so every arm has the same one",
    ),
)  # fmt: skip
