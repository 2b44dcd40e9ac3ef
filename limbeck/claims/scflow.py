"""Claim: the student gives the same sample in one step and in four, where an adversarial consistency model does not.

That one has the same near consistency and discriminator, and neither looks to the far side nor stays on the lines to
its own samples. The control lacks the latter alone. Bed: the teacher's field is exact.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine, linear
from limbeck.parts.states import uniform_levels
from limbeck.probes.agreement import sampler_gap
from limbeck.probes.distribution import sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.roles import learning

LOSS, EVEN = "distill.student.loss", uniform_levels()
FIELD = adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.5, 0.95))
OFF = {f"{LOSS}.reflow.weight": 0.0}
RATE = {"student.optimizer.lr.start": (2.5e-3, 5e-3, 1e-2)}
ARMS = {
    "scflow": Arm(),
    "adversarial consistency": Arm(set={**OFF, f"{LOSS}.far.weight": 0.0}),
    "no reflow": Arm(set=OFF),
}

claim = Claim(
    bed="mog8",
    set={
        "distill.steps": 300, "distill.batch_size": 128, "student.optimizer.lr": cosine(start=5e-3),
        "critic": learning(FIELD), "head.optimizer": FIELD, "distill.critic.loss.gan.levels": EVEN,
        f"{LOSS}.gan.loss.levels": EVEN,
    },
    arms=ARMS,
    probes={"gap": sampler_gap(), "sw2": sliced_w2()},
    says=(less("gap", "scflow", "adversarial consistency", by=0.1),),
    tune=Tune("sw2", dict.fromkeys(ARMS, RATE)),
    control="no reflow",
)  # fmt: skip
