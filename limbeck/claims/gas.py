"""Claim: four evaluations, of which every number learns, end nearer to the exact trajectories than those of theory.

Bed: trajectories that bend, known exactly. Theory may choose among grids of times, and where times alone learn, they
start from the same; less than two thirds of the error of either is what a user would change a sampler for.
The control learns the ends of other noise.
"""

from __future__ import annotations

from limbeck.parts.general_multistep import generalised
from limbeck.parts.plan import planned_sample, solved_ends
from limbeck.parts.schedule import cosine
from limbeck.parts.shuffled import shuffled
from limbeck.parts.solver import even, karras, shifted, third
from limbeck.probes.distribution import sliced_w2
from limbeck.probes.endpoint import endpoint_error
from limbeck.recipe import Arm, Claim, Tune, less

sample = planned_sample(solver=generalised()).on(student="teacher")
GRIDS = (even(4), shifted(4, 0.5), shifted(4, 2.0), karras(4, 0.05, 20.0))
LEARNT = {"solver.builder.times": GRIDS[:2], "solver.optimizer.lr.start": (1e-2, 3e-2)}
TIMES = {"solver.builder.memory": 0, "solver.builder.shifts": False}
ENDS = solved_ends(solver=third(), times=even(20)).on(student="teacher") >> shuffled(columns=("end",))

claim = Claim(
    bed="mog5",
    set={
        "solve.rows.solver": third(), "solve.rows.times": even(20), "solve.chunk": 0, "distill.steps": 300,
        "distill.batch_size": 128, "solver.builder.times": even(4),
        "solver.optimizer.lr": cosine(start=2e-2), "critic.optimizer.lr": 1e-3,
    },
    arms={
        "gas": Arm(), "times": Arm(set={"variant": "gs", **TIMES}),
        "theory": Arm(set={"solver.optimizer.lr": 0.0, "distill.steps": 1}),
        "shuffled": Arm(set={"solve.rows": ENDS}),
    },
    probes={"error": endpoint_error(draw=sample), "sw2": sliced_w2(draw=sample, rows=5_000)},
    says=(less("error", "gas", "theory", by=0.1), less("error", "gas", "times", by=0.05)),
    tune=Tune("error", {"gas": LEARNT, "times": LEARNT, "shuffled": LEARNT, "theory": {"solver.builder.times": GRIDS}}),
    control="shuffled",
)  # fmt: skip
