"""Claim: iCT samples better in one step than consistency training as it was, for the same data and evaluations.

The older way has a moving average in the target, a squared distance and even levels. A moving average alone, under all
else of iCT, does harm. The control keeps its ladder as short as it is at first. Bed: the data are known in closed form.
"""

from __future__ import annotations

from limbeck.parts.consistency import consistency
from limbeck.parts.distance import squared
from limbeck.parts.doubling import doubling
from limbeck.parts.neighbours import even_ladder_step, line_states
from limbeck.parts.schedule import cosine
from limbeck.probes.distribution import sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less

RATE, RUNGS = "student.optimizer.lr.start", "distill.student.batch.ladder_step.rungs"
GROWING = doubling(start=4.0, end=160.0)
OLDER = {
    "target.decay": 0.9,
    "distill.student.batch": even_ladder_step(rungs=GROWING) >> line_states(),
    "distill.student.loss": consistency(distance=squared()),
}
RATES = {RATE: (2.5e-3, 5e-3, 1e-2, 2e-2)}

claim = Claim(
    bed="mog8",
    set={"distill.steps": 500, "distill.batch_size": 512, "student.optimizer.lr": cosine(start=1e-2), RUNGS: GROWING},
    arms={
        "ict": Arm(),
        "ct": Arm(set=OLDER),
        "moving average": Arm(set={"target.decay": 0.99}),
        "short ladder": Arm(set={RUNGS: 5.0}),
    },
    probes={"sw2": sliced_w2()},
    says=(less("sw2", "ict", "ct", by=0.05), less("sw2", "ict", "moving average", by=0.05)),
    tune=Tune(
        "sw2",
        {
            "ict": RATES,
            "ct": {RATE: (5e-3, 1e-2), "distill.student.batch.even_ladder_step.rungs": (40.0, GROWING)},
            "moving average": RATES,
            "short ladder": RATES,
        },
    ),
    control="short ladder",
)
