"""Claim: heads on the teacher's features lead the student nearer to the data than a discriminator from scratch.

Bed: a field of eight modes that was trained, for an exact one has no features; one step. The student starts as the
teacher, the data are the teacher's, and both arms play the same game on the same rows, at the same levels.
The heads of the control never learn.
"""

from __future__ import annotations

from limbeck.parts.hinge import pixel_head
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.parts.solver import even
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.roles import built

HEADS = adamw(lr=5e-3, betas=(0.5, 0.95))
ONE = (1.0, 0.0, 0.0, 0.0)
RATES = {"student.optimizer.lr.start": (1e-3, 3e-3), "heads.optimizer.lr": (2e-3, 5e-3)}
STILL = {"student.optimizer.lr.start": (5e-4, 1e-3, 3e-3, 6e-3)}

claim = Claim(
    bed="mog8_learnt",
    set={
        "make.rows.times": even(15), "make.chunk": 0, "distill.steps": 300, "distill.batch_size": 128,
        "distill.heads.times": 1, "distill.heads.batch.levels.chances": ONE,
        "distill.student.batch.levels.chances": ONE,
        "heads.builder.taps": ("tap:trunk.1", "tap:trunk.3", "tap:trunk.5"), "heads.optimizer": HEADS,
        "student.optimizer": adamw(lr=linear(start=3e-3, end=2.5e-4), betas=(0.5, 0.95)),
    },
    arms={
        "ladd": Arm(), "scratch": Arm(set={"heads": built(pixel_head(width=128, depth=2), HEADS)}),
        "still heads": Arm(set={"heads.optimizer.lr": 0.0}),
    },
    probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
    says=(less("sw2", "ladd", "scratch", by=0.05),),
    tune=Tune("sw2", {"ladd": RATES, "scratch": RATES, "still heads": STILL}),
    control="still heads",
)  # fmt: skip
