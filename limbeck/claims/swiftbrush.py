"""Claim: with a critic the generator finds the data; with the teacher alone, as in DreamFusion, it seeks modes.

The control has a critic that never learns: it says what the teacher says.

Bed: a trained teacher from which the student starts and of which the critic is a low-rank change; there are no
classes, so no guidance either.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.parts.score_direction import score_distillation
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less, more

RATES = {"student.optimizer.lr.start": (5e-4, 1e-3, 2e-3)}

claim = Claim(
    bed="mog8_learnt",
    set={
        "distill.steps": 400,
        "distill.batch_size": 128,
        "distill.student.loss.scale": 1.0,
        "distill.student.loss.critic_scale": 1.0,
        "critic.optimizer": adamw(lr=2e-3, betas=(0.5, 0.95)),
        "student.optimizer": adamw(lr=linear(start=1e-3, end=1e-4), betas=(0.5, 0.95)),
    },
    arms={
        "swiftbrush": Arm(),
        "no critic": Arm(set={"distill.student.loss": score_distillation(scale=1.0).on(scene="student")}),
        "critic stands still": Arm(set={"critic.optimizer.lr": 0.0}),
    },
    probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
    says=(less("sw2", "swiftbrush", "no critic", by=0.5), more("recall", "swiftbrush", "no critic", by=0.5)),
    tune=Tune("sw2", dict.fromkeys(("swiftbrush", "no critic", "critic stands still"), RATES)),
    control="critic stands still",
)
