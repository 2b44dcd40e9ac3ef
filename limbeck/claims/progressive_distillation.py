"""Claim: the student samples in two steps far better than its first teacher in two, and needs the truncated weight.

Learnt from one step of the teacher in place of two, it is DDIM with fewer and fewer steps, by the same net after the
same training. In the control the teacher takes two, to where those of other rows land.

Bed: trajectories that bend, so that few straight steps go astray.
"""

from __future__ import annotations

from limbeck.parts.halving import cosine_times, landing_states, snr_weight
from limbeck.parts.shuffled import shuffled
from limbeck.parts.solver import ode_sample
from limbeck.probes.distribution import sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less

PHASES = ("first.distill.student", "later.distill.student")
DDIM = {f"{phase}.batch.steps": 1 for phase in PHASES}
NOISE = {f"{phase}.loss.land.weight": snr_weight(plus=0.0) for phase in PHASES}
LANDED = landing_states() >> shuffled(columns=("landed",))
OTHERS = {f"{PHASES[0]}.batch": LANDED, f"{PHASES[1]}.batch": LANDED.on(teacher="past")}
GRID = {"student.optimizer.lr.start": (5e-3, 1e-2)}
ARMS = {"halved": Arm(), "ddim": Arm(set=DDIM), "weight of noise": Arm(set=NOISE), "shuffled": Arm(set=OTHERS)}

claim = Claim(
    bed="mog5",
    # 32 -> 16 -> 8 -> 4 -> 2; the first round must also learn the field, for the nets share no weights
    set={
        "ladder.builder.start": 32, "later.times": 3, "first.distill.steps": 400, "later.distill.steps": 150,
        "first.distill.batch_size": 128, "later.distill.batch_size": 128,
    },
    arms=ARMS,
    probes={"sw2": sliced_w2(draw=ode_sample(times=cosine_times(2)))},
    says=(less("sw2", "halved", "ddim", by=0.2), less("sw2", "halved", "weight of noise", by=0.05)),
    tune=Tune("sw2", dict.fromkeys(ARMS, GRID)),
    control="shuffled",
)  # fmt: skip
