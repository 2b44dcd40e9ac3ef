"""Claim: the estimated mixture beats labels alone and predecessors alone at a given penalty, strong or weak.

Bed: every fit is kernel ridge regression, so what eight generations end in is known. The control
gives labels and predecessor each other's weight.
"""

from __future__ import annotations

from limbeck.parts.likelihood import optimal_weight
from limbeck.probes.regression import gap_to_ridge, mse
from limbeck.recipe import Arm, Claim, less, within

ROWS = 30  # of the bed; weight decay there is penalty / ROWS


def at(penalty: float, weight: float | None = None, generations: int = 1) -> Arm:
    """An arm at a given penalty, with the weight of the labels given too, or estimated."""
    given = {"mix.builder.weight": weight, "weigh.steps": 0, "generations.imitate.fit.steps": 1}
    sizes = {"student.optimizer.weight_decay": penalty / ROWS, "generations.times": generations}
    return Arm(set=sizes if weight is None else {**given, **sizes})


TURNED = Arm(set={**at(1.0).set, "generations.weigh.step": optimal_weight().on(first="echo", echo="first")})

claim = Claim(
    bed="sines",
    arms={
        "estimated": at(1.0), "labels": at(1.0, weight=1.0), "imitation": at(1.0, weight=0.0),
        "estimated, weak penalty": at(0.03), "labels, weak penalty": at(0.03, weight=1.0),
        "eight generations": at(1.0, weight=0.5, generations=8), "weights exchanged": TURNED,
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
    seeds=8, control="weights exchanged",
    no_tune="the question is what mixing does at a given penalty, so every arm has the same one",
)  # fmt: skip
