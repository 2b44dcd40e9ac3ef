"""Claim: DMD2 comes nearer to the truth than matching the teacher alone, for its discriminator sees real data.

Bed: the teacher is wrong about the weights of two modes, and only the data can tell. In the control the
discriminator is there and never learns.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.distribution import distribution_matching, fake_denoising
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.parts.states import uniform_levels
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.roles import learning

# small nets that must follow a moving target within a few hundred steps
QUICK = adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.5, 0.95))
EVEN = uniform_levels()
NO_GAN = {
    "distill.critic.learns": ("critic",),
    "distill.critic.loss": terms(denoise=fake_denoising(levels=EVEN, sigma_data=1.4)),
    "distill.student.loss": terms(match=distribution_matching(levels=EVEN)),
}
BLIND = {"distill.critic.loss.gan.weight": 0.0}
MATCH = {"distill.student.loss.gan.weight": (1.0, 3.0), "student.optimizer.lr.start": (2.5e-3, 5e-3)}

claim = Claim(
    bed="mog8w",
    set={
        "distill.steps": 300, "distill.batch_size": 128, "distill.critic.loss.denoise.levels": EVEN,
        "distill.critic.loss.denoise.sigma_data": 1.4, "distill.critic.loss.gan.levels": EVEN,
        "distill.critic.loss.gan.weight": 0.3, "distill.student.loss.match.levels": EVEN,
        "distill.student.loss.gan.levels": EVEN, "distill.student.loss.gan.weight": 1.0,
        "critic": learning(QUICK), "head.optimizer": QUICK,
        "student.optimizer": adamw(lr=linear(start=5e-3, end=2.5e-4), betas=(0.5, 0.95)),
    },
    arms={"dmd2": Arm(), "no-gan": Arm(set=NO_GAN), "blind": Arm(set=BLIND)},
    probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
    says=(less("sw2", "dmd2", "no-gan", by=0.05),),
    tune=Tune(
        "sw2",
        {
            "dmd2": MATCH,
            "blind": MATCH,
            "no-gan": {"student.optimizer.lr.start": (1.25e-3, 2.5e-3, 5e-3, 1e-2)},
        },
    ),
    control="blind",
)  # fmt: skip
