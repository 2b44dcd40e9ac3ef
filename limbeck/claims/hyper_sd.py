"""Claim: segments that double in length keep more of the trajectory than one segment from the start.

All arms take the same steps. One segment from the start is trajectory consistency distillation; in
the control segments halve in length.
Without the last stage, which then goes on with consistency alone, one-step samples are further from the data. Bed:
trajectories bend, and are known in closed form.
"""

from __future__ import annotations

from limbeck.parts.consistency import consistency
from limbeck.parts.distance import squared
from limbeck.parts.flowmap import any_step
from limbeck.parts.neighbours import grid_step, reach_below, teacher_step
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine, linear
from limbeck.parts.solver import even
from limbeck.parts.states import uniform_levels
from limbeck.probes.distribution import sliced_w2
from limbeck.probes.trajectory import trajectory_error
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.roles import learning

STAGES, EVEN = [f"segments-{k}" for k in (8, 4, 2, 1)], uniform_levels()
QUICK = {
    **{f"{stage}.{size}": n for stage in STAGES for size, n in (("steps", 150), ("batch_size", 256))},
    "score.steps": 60, "score.batch_size": 128, "score.critic.loss.levels": EVEN, "score.match.loss.levels": EVEN,
    "score.critic.loss.sigma_data": 1.4, "student.optimizer.lr": cosine(start=5e-3),
    "critic": learning(adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.5, 0.95))),
}  # fmt: skip
PLAIN = {
    "score.match.loss": consistency(distance=squared()),
    "score.match.batch": grid_step(times=even(64)) >> reach_below() >> teacher_step(),
}
SEGMENTS = "student.batch.reach_below.segments"
RATE = {"student.optimizer.lr.start": (2.5e-3, 5e-3)}
ARMS = {
    "hyper-sd": Arm(),
    "one segment": Arm(set={f"{stage}.{SEGMENTS}": 1 for stage in STAGES}),
    "halving": Arm(set={f"{stage}.{SEGMENTS}": k for stage, k in zip(STAGES, (1, 2, 4, 8), strict=True)}),
    "no score": Arm(set=PLAIN),
}

claim = Claim(
    bed="mog5",
    set=QUICK,
    arms=ARMS,
    probes={
        "error": trajectory_error(bed="mog5"), "error4": trajectory_error(bed="mog5", draw=any_step(times=even(4))),
        "sw2": sliced_w2(draw=any_step()),
    },
    says=(less("error", "hyper-sd", "one segment", by=0.05), less("sw2", "hyper-sd", "no score", by=0.02)),
    tune=Tune("sw2", dict.fromkeys(ARMS, RATE)),
    control="halving",
)  # fmt: skip
