"""Claim: a causal student errs less if the scores that teach it see whole clips than if they see no later chunk either.

Bed: clips whose every further frame is known from two. The control is the symmetric case: teacher and critic are
causal, as the teacher was trained to be too.
"""

from __future__ import annotations

from limbeck.parts.clips import chunkwise, clip_trajectories, seen_chunks, trajectory_chunks
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.probes.distribution import sliced_w2
from limbeck.probes.motion import motion_error
from limbeck.recipe import Arm, Claim, Tune, less

RATE = "student.optimizer.lr.start"
GRID = {RATE: (3e-4, 1e-3)}
QUICK = adamw(lr=linear(start=1e-3, end=1e-4), betas=(0.5, 0.95))
TWO = seen_chunks(chunk=2)

claim = Claim(
    bed="bounces",
    set={
        "student.builder.chunk": 2, "begin.student.batch": trajectory_chunks(chunk=2), "begin.steps": 100,
        "begin.batch_size": 64, "trajectories.rows": clip_trajectories(between=5), "distill.critic.batch": TWO,
        "distill.student.batch": TWO, "distill.steps": 100, "distill.batch_size": 64, "distill.critic.times": 2,
        "distill.critic.loss.sigma_data": 0.6, "student.optimizer": QUICK, "critic.optimizer": QUICK,
    },
    arms={"causvid": Arm(), "symmetric": Arm(set={"real.builder.chunk": 2, "critic.builder.chunk": 2})},
    probes={
        "motion": motion_error(), "late motion": motion_error(draw=chunkwise(frames=24), first=16),
        "sw2": sliced_w2(draw=chunkwise(), rows=2_000),
    },
    says=(less("motion", "causvid", "symmetric", by=0.01),),
    tune=Tune("motion", {"causvid": GRID, "symmetric": GRID}),
    control="symmetric",
)  # fmt: skip
