"""Claim: steps that start from the student's own states, after a teacher of order three, end nearest to the exact flow.

Bed: trajectories that bend, known exactly; three evaluations. Steps from the teacher's states never see the errors of
those before; a teacher of order one at as many evaluations teaches its own. 0.015 is a tenth of the error that is left.
The control learns paths from other noise.
"""

from __future__ import annotations

from limbeck.parts.own_states import teacher_path
from limbeck.parts.schedule import cosine
from limbeck.parts.shuffled import shuffled
from limbeck.parts.solver import dpm_multistep, euler, even, ode_sample
from limbeck.probes.distribution import sliced_w2
from limbeck.probes.endpoint import endpoint_error
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.recipes.trajectory.sfd import NAMES

sample = ode_sample(solver=euler(), times=even(3))
PATHS = {n: teacher_path(solver=dpm_multistep(order=n), times=even(3), merge=4) for n in (1, 3)}
OTHERS = PATHS[3] >> shuffled(columns=("path",))
RATES = {"student.optimizer.lr.start": (1e-3, 2e-3, 4e-3, 8e-3)}
ARMS = {
    "sfd": Arm(),
    "teacher-states": Arm(set={f"distill.{name}.loss.own": False for name in NAMES}),
    "shuffled": Arm(set={f"distill.{name}.batch": OTHERS for name in NAMES}),
    "euler-teacher": Arm(set={f"distill.{name}.batch": PATHS[1] for name in NAMES}),
}

claim = Claim(
    bed="mog5",
    set={
        **{f"distill.{name}.batch": PATHS[3] for name in NAMES}, "distill.steps": 400,
        "student.optimizer.lr": cosine(start=4e-3),
    },
    arms=ARMS,
    probes={"error": endpoint_error(draw=sample), "sw2": sliced_w2(draw=sample, rows=5_000)},
    says=(less("error", "sfd", "teacher-states", by=0.015), less("error", "sfd", "euler-teacher", by=0.015)),
    tune=Tune("error", dict.fromkeys(ARMS, RATES)),
    control="shuffled",
)  # fmt: skip
