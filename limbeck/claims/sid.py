"""Claim: the score identity comes nearer to the teacher than the naive, biased estimate of the same divergence.

Taking a share of the naive estimate away brings it nearer than the identity alone (alpha = 0). The identity holds for a
critic that follows; that of the control never learns.

Bed: a grid whose outer modes a fresh generator does not reach; the teacher is exact, and no data are read.
"""

from __future__ import annotations

from limbeck.parts.fisher import naive_fisher
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.parts.states import uniform_levels
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.roles import learning

# small nets that must follow a moving target within a few hundred steps
QUICK = adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.0, 0.95))
EVEN = uniform_levels()
RATE, ALPHA = "student.optimizer.lr.start", "distill.student.loss.alpha"
GRID = {ALPHA: (0.5, 1.0), RATE: (2e-3, 4e-3)}
ARMS = {
    "sid": Arm(),
    "alpha 0": Arm(set={ALPHA: 0.0}),
    "naive": Arm(set={"distill.student.loss": naive_fisher(levels=EVEN)}),
    "critic stands still": Arm(set={"critic.optimizer.lr": 0.0}),
}

claim = Claim(
    bed="mog25",
    set={
        "distill.steps": 400, "distill.batch_size": 128, "distill.critic.times": 2, ALPHA: 0.5,
        "distill.critic.loss.levels": EVEN, "distill.critic.loss.sigma_data": 1.4, "distill.student.loss.levels": EVEN,
        "critic": learning(QUICK), "student.optimizer": adamw(lr=linear(start=1e-3, end=5e-5), betas=(0.0, 0.95)),
    },
    arms=ARMS,
    probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
    says=(less("sw2", "sid", "naive", by=0.2), less("sw2", "sid", "alpha 0", by=0.03)),
    tune=Tune(
        "sw2",
        {
            "sid": GRID,
            "critic stands still": GRID,
            "alpha 0": {RATE: (1e-3, 2e-3, 3e-3, 4e-3)},
            "naive": {RATE: (1e-4, 5e-4, 1e-3, 2e-3)},
        },
    ),
    control="critic stands still",
)  # fmt: skip
