"""Claim: weighed by the density ratio, matching finds more of the modes than the reverse divergence of DMD2.

Reverse Kullback-Leibler weighs alike, with the same discriminator; the control gives each sample the weight of another.
They are compared where the modes begin to stand apart, for under much noise either finds them all.

Bed: a grid whose outer modes a fresh generator does not reach; the teacher is exact.
"""

from __future__ import annotations

from limbeck.parts.curvature import jensen_shannon, reverse_kl
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.parts.shuffled import weighed_as_another
from limbeck.parts.states import uniform_levels
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, more
from limbeck.recipes.distribution.f_distill import H
from limbeck.roles import learning

# small nets that must follow a moving target within a few hundred steps
QUICK = adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.5, 0.95))
EVEN, NEAR = uniform_levels(), uniform_levels(low=0.02, high=0.5)
CRITIC, STUDENT = "distill.critic.loss", "distill.student.loss"
GRID = {"student.optimizer.lr.start": (2.5e-3, 5e-3, 1e-2)}
ARMS = {
    "js": Arm(), "rkl": Arm(set={H: reverse_kl()}), "another's": Arm(set={H: weighed_as_another(of=jensen_shannon())}),
}  # fmt: skip

claim = Claim(
    bed="mog25",
    set={
        "distill.steps": 300, "distill.batch_size": 128, "distill.critic.times": 3,
        f"{CRITIC}.denoise.levels": EVEN, f"{CRITIC}.denoise.sigma_data": 1.4, f"{CRITIC}.gan.levels": EVEN,
        f"{CRITIC}.usual.levels": EVEN, f"{STUDENT}.match.levels": NEAR, f"{STUDENT}.gan.levels": NEAR,
        f"{STUDENT}.gan.weight": 1e-3,
        "critic": learning(QUICK), "head.optimizer": QUICK,
        "student.optimizer": adamw(lr=linear(start=5e-3, end=2.5e-4), betas=(0.5, 0.95)),
    },
    arms=ARMS,
    probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
    says=(more("recall", "js", "rkl", by=0.05),),
    seeds=5,
    tune=Tune("sw2", dict.fromkeys(ARMS, GRID)),
    control="another's",
)  # fmt: skip
