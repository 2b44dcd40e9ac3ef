"""Claim: by the forward divergence the expansion comes nearer to the teacher than by the reverse, which is SiD's.

The reverse divergence weighs alike, at alpha = 1/2 of SiD; the control gives each sample the weight of another.

Bed: a grid whose outer modes a fresh generator does not reach; the teacher is exact.
"""

from __future__ import annotations

from limbeck.parts.curvature import forward_kl, jeffreys, reverse_kl
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.parts.shuffled import weighed_as_another
from limbeck.parts.states import uniform_levels
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.recipes.distribution.uni_instruct import C
from limbeck.roles import learning

# small nets that must follow a moving target within a few hundred steps
QUICK = adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.0, 0.95))
EVEN = uniform_levels()
CRITIC, STUDENT = "distill.critic.loss", "distill.student.loss"
GRID = {"student.optimizer.lr.start": (2e-3, 4e-3)}
ARMS = {"fkl": Arm(), "jeffreys": Arm(set={C: jeffreys()}), "rkl": Arm(set={C: reverse_kl()})}
ARMS |= {"another's": Arm(set={C: weighed_as_another(of=forward_kl())})}

claim = Claim(
    bed="mog25",
    set={
        "distill.steps": 400, "distill.batch_size": 128, "distill.critic.times": 2,
        f"{CRITIC}.denoise.levels": EVEN, f"{CRITIC}.denoise.sigma_data": 1.4, f"{CRITIC}.gan.levels": EVEN,
        f"{CRITIC}.usual.levels": EVEN, f"{STUDENT}.levels": EVEN,
        "critic": learning(QUICK), "head.optimizer": QUICK,
        "student.optimizer": adamw(lr=linear(start=2e-3, end=1e-4), betas=(0.0, 0.95)),
    },
    arms=ARMS,
    probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
    says=(less("sw2", "fkl", "rkl", by=0.02),),
    tune=Tune("sw2", dict.fromkeys(ARMS, GRID)),
    control="another's",
)  # fmt: skip
