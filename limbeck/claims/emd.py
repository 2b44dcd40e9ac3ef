"""Claim: a chain of four steps comes nearer to the teacher than matching, which is one step with fixed latents.

Both ask teacher and critic equally often in all: matching takes four times the steps. One arm leaves the noise of
the chain in its target; in the control the chain goes as far and leaves the latents where they are.

Bed: a grid whose outer modes a fresh generator does not reach; the teacher is exact.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.parts.states import uniform_levels
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.recipes.distribution.emd import CHAIN
from limbeck.roles import learning

# small nets that must follow a moving target within a few hundred steps
QUICK = adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.5, 0.95))
EVEN = uniform_levels()
RATE = "student.optimizer.lr.start"
EM = {f"{CHAIN}.latent_rate": (1.6e-5, 1e-4), RATE: (2.5e-3, 5e-3)}
RATES = {RATE: (1.25e-3, 2.5e-3, 5e-3, 1e-2)}

claim = Claim(
    bed="mog25",
    set={
        "distill.steps": 150, "distill.batch_size": 128, "distill.critic.loss.levels": EVEN,
        "distill.critic.loss.sigma_data": 1.4, f"{CHAIN}.levels": EVEN, f"{CHAIN}.steps": 4, "critic": learning(QUICK),
        "student.optimizer": adamw(lr=linear(start=5e-3, end=2.5e-4), betas=(0.5, 0.95)),
    },
    arms={
        "emd": Arm(),
        "matching": Arm(set={f"{CHAIN}.steps": 1, f"{CHAIN}.latent_rate": 0.0, "distill.steps": 600}),
        "noisy": Arm(set={f"{CHAIN}.cancel": False}),
        "latents stand still": Arm(set={f"{CHAIN}.latent_rate": 0.0}),
    },
    probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
    says=(less("sw2", "emd", "matching", by=0.02), less("sw2", "emd", "noisy", by=0.05)),
    tune=Tune("sw2", {"emd": EM, "matching": RATES, "noisy": EM, "latents stand still": RATES}),
    control="latents stand still",
)  # fmt: skip
