"""Claim: without data or stored pairs, bootstrapping follows the teacher further than simulating it for the same calls.

Both ask the teacher twice a row and step: BOOT for a step of the trajectory and for its start, the other for two steps
of DDIM from noise to data, whose end the student learns. With no boundary condition nothing ties the
start of trajectories to the teacher; in the control it is the teacher's guess for other noise. Bed: the flow is known
in closed form.
"""

from __future__ import annotations

from limbeck.parts.bootstrap import boundary
from limbeck.parts.consistency import consistency
from limbeck.parts.distance import squared
from limbeck.parts.flowmap import any_step
from limbeck.parts.neighbours import grid_step, teacher_step
from limbeck.parts.schedule import cosine
from limbeck.parts.shuffled import misled
from limbeck.probes.distribution import sliced_w2
from limbeck.probes.trajectory import trajectory_error
from limbeck.recipe import Arm, Claim, Tune, less

SIMULATED = {
    "distill.student.batch": grid_step(times=(1.0, 0.0)) >> teacher_step(steps=2),
    "distill.student.loss": consistency(distance=squared()).on(target="student"),
}
RATE = {"student.optimizer.lr.start": (2.5e-3, 5e-3, 1e-2)}
ARMS = {
    "boot": Arm(),
    "simulation": Arm(set=SIMULATED),
    "misled": Arm(set={"distill.student.loss.boundary": 0.1 * misled(loss=boundary())}),
    "no boundary": Arm(set={"distill.student.loss.boundary.weight": 0.0}),
}

claim = Claim(
    bed="mog8",
    set={"distill.steps": 600, "distill.batch_size": 256, "student.optimizer.lr": cosine(start=5e-3)},
    arms=ARMS,
    probes={"error": trajectory_error(), "sw2": sliced_w2(draw=any_step())},
    says=(less("error", "boot", "simulation", by=0.2), less("error", "boot", "no boundary", by=0.1)),
    tune=Tune("error", dict.fromkeys(ARMS, RATE)),
    control="misled",
)
