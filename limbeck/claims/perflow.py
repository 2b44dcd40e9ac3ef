"""Claim: straight by windows, a flow needs four steps where DDIM strays, and less simulation than reflow of the whole.

`whole` simulates the path from noise to data for its pairs, at as many calls of the teacher: sixteen to a row and not
four, so a quarter of the rows. `ddim` copies the teacher's own slope at the top of each window: DDIM in four
steps. The control learns slopes of other rows. Bed: trajectories that bend.
"""

from __future__ import annotations

from limbeck.parts.schedule import cosine
from limbeck.parts.shuffled import shuffled
from limbeck.parts.solver import even, ode_sample
from limbeck.parts.windows import window_states
from limbeck.probes.distribution import sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less

BATCH = "distill.student.batch"
WHOLE = {f"{BATCH}.borders": (1.0, 0.0), f"{BATCH}.steps": 16, "distill.batch_size": 64}
OTHERS = window_states(steps=4).on(teacher="guided") >> shuffled(columns=("velocity",))
GRID = {"student.optimizer.lr.start": (5e-3, 1e-2)}
ARMS = {
    "windows": Arm(),
    "whole": Arm(set=WHOLE),
    "ddim": Arm(set={f"{BATCH}.steps": 1}),
    "shuffled": Arm(set={BATCH: OTHERS}),
}

claim = Claim(
    bed="mog5",
    set={
        "guided.builder.scale": 1.0, "distill.steps": 600, "distill.batch_size": 256, f"{BATCH}.steps": 4,
        "student.optimizer.lr": cosine(start=5e-3),
    },
    arms=ARMS,
    probes={"sw2": sliced_w2(draw=ode_sample(times=even(4)))},
    says=(less("sw2", "windows", "ddim", by=0.05), less("sw2", "windows", "whole", by=0.02)),
    tune=Tune("sw2", dict.fromkeys(ARMS, GRID)),
    control="shuffled",
)  # fmt: skip
