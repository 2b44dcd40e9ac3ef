"""Claim: the teacher's loss tells how good its students get: the law foretells new runs, nearer than one without it.

Bed: the source of the text is a formula, so its entropy, below which no loss can fall, is known.
"""

from __future__ import annotations

from limbeck.probes.scaling import early_gain, excess_error, held_out_error, late_gain
from limbeck.recipe import Arm, Claim, within
from limbeck.recipes.lm.distillation_scaling_law import alone

STUDENTS = {"pupil.builder.width": (0.25, 0.5, 1.0), "text.rows.rows": (128, 512, 2048)}
SIZE = {"sweep.times": (0,), "learn.batch_size": (16,), "pupil.optimizer.lr.start": (3e-2,), **STUDENTS}

claim = Claim(
    bed="oracle_lm_taught",
    arms={"law": Arm()},
    probes={
        "error": held_out_error(), "excess": excess_error(),
        "blind_error": held_out_error(blind=True),
        "early_gain": early_gain(), "late_gain": late_gain(),
    },
    says=(within("error", "law", 0.15), within("excess", "law", 0.0)),
    set={
        "text.rows.rows": 256, "learn.batch_size": 16,
        "sweep.supervised.over": {"learn.pupil.loss": (alone,), **SIZE},
        "sweep.distilled.over": {"tempered.builder.temperature": (1.0, 2.0, 4.0), **SIZE},
    },
    players={"teacher": "oracle"},
    no_control="the law that knows of no teacher is fitted to the same runs (excess)",
)  # fmt: skip
