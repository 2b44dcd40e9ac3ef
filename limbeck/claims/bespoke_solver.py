"""Claim: four steps of the midpoint rule in a scale and time of the field's own end nearer to the exact trajectories.

Bed: trajectories that bend, known exactly; eight evaluations. The plain rule may choose among four grids of times, the
learned one its rate. 0.05 is a quarter of the plain rule's error, and a tenth of a component's length. The control
learns as long from a path that is as coarse as what it replaces.
"""

from __future__ import annotations

from limbeck.parts.plan import planned_sample
from limbeck.parts.scale_time import exact_path, scaled_midpoint
from limbeck.parts.schedule import cosine
from limbeck.parts.solver import euler, even, shifted
from limbeck.probes.endpoint import endpoint_error
from limbeck.recipe import Arm, Claim, Tune, less

FOUR = (even(4), shifted(4, 0.5), shifted(4, 2.0), shifted(4, 0.25))
COARSE = {"distill.solver.batch": exact_path(solver=euler(), merge=2).on(student="teacher")}
RATES = {"solver.optimizer.lr.start": (1e-2, 3e-2, 6e-2, 0.1)}

claim = Claim(
    bed="mog5",
    set={
        "solver.builder.times": even(4), "distill.steps": 200, "distill.batch_size": 96,
        "distill.solver.batch.merge": 3, "solver.optimizer.lr": cosine(start=1e-2),
    },
    arms={
        "bespoke": Arm(), "midpoint": Arm(set={"solver.optimizer.lr": 0.0, "distill.steps": 1}),
        "coarse path": Arm(set=COARSE),
    },
    probes={"error": endpoint_error(draw=planned_sample(solver=scaled_midpoint()).on(student="teacher"))},
    says=(less("error", "bespoke", "midpoint", by=0.05),),
    tune=Tune(
        "error",
        {
            "bespoke": RATES, "coarse path": RATES,
            "midpoint": {"solver.builder.times": FOUR},
        },
    ),
    control="coarse path",
)  # fmt: skip
