"""Claim: a flow that teaches itself samples better in three steps than one that goes on learning the teacher's field.

Both start from the same imitation of the teacher and take the same steps. The control has no slow average, so that
nothing holds the straight pieces where the flow is. Bed: trajectories bend, and are known in closed form.
"""

from __future__ import annotations

from limbeck.parts.halved_steps import field_imitation
from limbeck.parts.schedule import cosine, linear
from limbeck.parts.solver import even, ode_sample
from limbeck.probes.distribution import sliced_w2
from limbeck.probes.trajectory import trajectory_error
from limbeck.recipe import Arm, Claim, Tune, less

THREE = ode_sample(times=even(3))
RATE = {"student.optimizer.lr.start": (2.5e-3, 5e-3, 1e-2)}
ARMS = {
    "scfm": Arm(),
    "field": Arm(set={"distill.student.loss": field_imitation()}),
    "no slow average": Arm(set={"distill.student.loss.hold": 0.0}),
}

claim = Claim(
    bed="mog5",
    set={
        "start.times": 1, "start.copy.steps": 300, "start.copy.batch_size": 256, "distill.steps": 300,
        "distill.batch_size": 256, "student.optimizer.lr": cosine(start=5e-3), "slow.decay": 0.99,
        "distill.student.batch.longest": linear(start=0.05, end=0.34),
    },
    arms=ARMS,
    probes={"sw2": sliced_w2(draw=THREE), "error": trajectory_error(bed="mog5", draw=THREE)},
    says=(less("sw2", "scfm", "field", by=0.05),),
    tune=Tune("sw2", dict.fromkeys(ARMS, RATE)),
    control="no slow average",
)  # fmt: skip
