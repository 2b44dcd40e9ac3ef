"""Claim: one matched row a class teaches fresh nets more than class centres and random rows do.

Bed: real digits, small enough for trajectories of experts to be made and matched within a minute.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adam
from limbeck.parts.trajectory_matching import expert_trajectories, trajectory_distance
from limbeck.probes.dataset import retrained_accuracy
from limbeck.recipe import Arm, Claim, Tune, more

RATES = (0.1, 0.2, 0.3, 0.4)
BEGINS, CHOICES = {"rate.builder.start": RATES}, {"choose.rows.lr": RATES}
CENTRES = {"choose.rows": tuple(f"class_centres(per_class=1, lr={rate})" for rate in RATES)}
TOY = {
    **{"experts.rows": expert_trajectories(experts=8, epochs=12, lr=0.5, batch_size=100), "choose.rows.per_class": 1},
    **{"match.rows.loss": trajectory_distance(steps=15, ahead=1, starts=10), "match.steps": 200, "match.batch_size": 2},
    **{"images.builder.per_class": 1, "images.optimizer.lr": 0.3, "match.clip": 0.5, "rate.optimizer": adam(lr=1e-3)},
}

claim = Claim(
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
)
