"""Claim: VkD beats plain feature matching, labels alone, and itself with a projector that is free to learn.

Bed: with 100 rows, what a projector learns in the student's place is missed; that it is orthogonal is measured. The
control is taught the features of other rows.
"""

from __future__ import annotations

from limbeck.parts.features import linear_projector, standardised_features
from limbeck.parts.shuffled import misled
from limbeck.probes.classification import accuracy
from limbeck.probes.features import gram_gap
from limbeck.recipe import Arm, Claim, Tune, more, within

GRID = {"student.optimizer.lr.start": (3e-3, 1e-2), "distill.student.loss.features.weight": (0.1, 0.3, 1.0)}
RATE = {"projector.optimizer.lr.start": 1e-2}
MISLED = {"distill.student.loss.features": 1.0 * misled(loss=standardised_features())}

claim = Claim(
    bed="digits_few",
    arms={
        "vkd": Arm(set=RATE),
        "misled": Arm(set=RATE | MISLED),
        "free": Arm(set={"projector.optimizer.lr.start": 1e-2, "projector.builder": linear_projector()}),
        "feature-mse": Arm("feature-mse", {"projector.optimizer.lr.start": 1e-2}),
        "alone": Arm("alone"),
    },
    probes={"accuracy": accuracy(), "gram_gap": gram_gap()},
    says=(
        more("accuracy", "vkd", "feature-mse", by=0.005),
        more("accuracy", "vkd", "alone", by=0.005),
        more("accuracy", "vkd", "free", by=0.005),
        within("gram_gap", "vkd", 1e-4),
    ),
    set={"distill.steps": 400, "distill.batch_size": 32},
    tune=Tune(
        "accuracy",
        {arm: GRID for arm in ("vkd", "free", "feature-mse", "misled")}
        | {"alone": {"student.optimizer.lr.start": (1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2)}},
        seeds=2,
    ),
    seeds=5,
    control="misled",
)
