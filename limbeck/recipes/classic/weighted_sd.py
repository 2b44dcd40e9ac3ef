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
from limbeck.recipe import Learn, Phase, Recipe, Repeat, Solve
from limbeck.roles import built, copy_of, learning


def fit(loss: Expr) -> Learn:
    """A training from scratch."""
    return Learn("fit", (Phase("student", ("student",), loss),), epochs=75, batch_size=128, fresh=("student",))


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
)  # fmt: skip
