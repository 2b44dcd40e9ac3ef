"""Claim: a student that can stop anywhere on the way samples better in eight steps than a consistency model.

Each is sampled in the better of two ways: down to the data and back by fresh noise, as consistency models are, or by
jumps that overshoot a little. Consistency distillation differs in one thing, that its trajectories all end at the data;
so it is the control as well. Bed: trajectories bend, and are known in closed form.
"""

from __future__ import annotations

from limbeck.parts.neighbours import grid_step, teacher_step
from limbeck.parts.schedule import cosine
from limbeck.parts.solver import even
from limbeck.parts.stochastic_jumps import jump_and_noise
from limbeck.probes.distribution import sliced_w2
from limbeck.probes.lesser import lesser
from limbeck.recipe import Arm, Claim, Tune, less

EIGHT = even(8)
DOWN, SHORT = (sliced_w2(draw=jump_and_noise(times=EIGHT, gamma=gamma)) for gamma in (1.0, 0.3))
RATE = {"student.optimizer.lr.start": (2.5e-3, 5e-3, 1e-2)}
ARMS = {"tcd": Arm(), "cd": Arm(set={"distill.student.batch": grid_step(times=even(50)) >> teacher_step()})}

claim = Claim(
    bed="mog5",
    set={"distill.steps": 600, "distill.batch_size": 256, "student.optimizer.lr": cosine(start=5e-3)},
    arms=ARMS,
    probes={"sw2": lesser(first=DOWN, second=SHORT)},
    says=(less("sw2", "tcd", "cd", by=0.02),),
    tune=Tune("sw2", dict.fromkeys(ARMS, RATE)),
    control="cd",
)
