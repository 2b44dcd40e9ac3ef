"""Claim: preferring data to its own samples at its own steps moves a few-step model and keeps it sharp.

Bed: a student that was distilled well before the data moved. The baseline is ordinary finetuning at all levels; the
control denoises the same data at the student's own steps, with no pairs and no reference.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.sample_preference import better_denoising, data_over_samples, sample_preference
from limbeck.parts.schedule import linear
from limbeck.parts.states import few_step, uniform_levels
from limbeck.probes.distribution import mode_quality, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less, more

FOUR = few_step(times=(1.0, 0.75, 0.5, 0.25))
LOSS, RATE = "tune.student.loss", "student.optimizer.lr.start"
RATES = {RATE: (3e-4, 1e-3, 3e-3, 1e-2)}

claim = Claim(
    bed="mog8_moved",
    set={
        "tune.steps": 200, "tune.batch_size": 128, "tune.student.batch": data_over_samples(),
        LOSS: sample_preference(beta=5.0), "student.optimizer": adamw(lr=linear(start=3e-4, end=0.0)),
    },
    arms={
        "pso": Arm(),
        "finetuned": Arm(set={LOSS: better_denoising(levels=uniform_levels())}),
        "data alone": Arm(set={LOSS: better_denoising()}),
    },
    probes={"sw2": sliced_w2(draw=FOUR), "quality": mode_quality(draw=FOUR)},
    says=(less("sw2", "pso", "finetuned", by=0.05), more("quality", "pso", "finetuned", by=0.1)),
    tune=Tune(
        "sw2",
        {
            "pso": {RATE: (3e-4, 1e-3), f"{LOSS}.beta": (5.0, 20.0)},
            "finetuned": RATES,
            "data alone": RATES,
        },
    ),
    control="data alone",
)  # fmt: skip
