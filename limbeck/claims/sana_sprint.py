"""Claim: the hinge game mends what one step of continuous-time consistency blurs.

Bed: a field of eight modes that was trained, for an exact one has no features; one step. The student starts as the
teacher; the arm without the game is otherwise the same, and is tuned as often; the heads of the control never learn.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less

LOSS, QUICK = "distill.student.loss", adamw(lr=5e-3, betas=(0.5, 0.95))
GRID = {f"{LOSS}.gan.weight": (0.5, 1.0), "student.optimizer.lr.start": (1.5e-3, 3e-3)}

claim = Claim(
    bed="mog8_learnt",
    set={
        "distill.steps": 300, "distill.batch_size": 128, "distill.clip": 0.0,
        "heads.builder.taps": ("tap:trunk.1", "tap:trunk.3", "tap:trunk.5"),
        f"{LOSS}.consistency.loss.sigma_data": 1.4, "heads.optimizer": QUICK, "weights.optimizer": QUICK,
        "student.optimizer": adamw(lr=linear(start=3e-3, end=2.5e-4), betas=(0.5, 0.95)),
    },
    arms={
        "sana-sprint": Arm(), "tangent alone": Arm(set={f"{LOSS}.gan.weight": 0.0}),
        "still heads": Arm(set={"heads.optimizer.lr": 0.0}),
    },
    probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
    says=(less("sw2", "sana-sprint", "tangent alone", by=0.02),),
    tune=Tune(
        "sw2",
        {
            "sana-sprint": GRID, "still heads": GRID,
            "tangent alone": {"student.optimizer.lr.start": (7.5e-4, 1.5e-3, 3e-3, 6e-3)},
        },
    ),
    control="still heads",
)  # fmt: skip
