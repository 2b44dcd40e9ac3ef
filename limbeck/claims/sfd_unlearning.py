"""Claim: pulled to the score of a safe class, a generator forgets a class and draws the safe one; pushed off, it errs.

Bed: four classes of known law. The control has a critic that never learns.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.parts.states import uniform_levels
from limbeck.probes.forgetting import override_distance, still_drawn
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.roles import learning

# small nets that must follow a moving target within a few hundred steps
QUICK = adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.0, 0.95))
EVEN = uniform_levels()
GONE, OWN = (0,), {"safe.builder.override": 0}
RATE, INSIDE = "student.optimizer.lr.start", "distill.student.loss.match.weight.inside"
GRID = {RATE: (1e-3, 3e-3), INSIDE: (0.1, 1.0)}

claim = Claim(
    bed="mog8c",
    set={
        "distill.steps": 300, "distill.batch_size": 128, "distill.critic.times": 2, "distill.clip": 0.0,
        "distill.critic.loss.denoise.levels": EVEN, "distill.critic.loss.denoise.sigma_data": 1.4,
        "distill.critic.loss.denoise.weight.inside": 1.0, INSIDE: 1.0,
        "distill.student.loss.match.levels": EVEN, "distill.student.loss.match.alpha": 0.5,
        "critic": learning(QUICK), "student.optimizer": adamw(lr=linear(start=1e-3, end=5e-5), betas=(0.0, 0.95)),
    },
    arms={
        "sfd": Arm(),
        "pushed from its own": Arm(set={**OWN, INSIDE: -0.1}),
        "nothing forgotten": Arm(set=OWN),
        "critic stands still": Arm(set={"critic.optimizer.lr": 0.0}),
    },
    probes={"still drawn": still_drawn(classes=GONE), "distance": override_distance(forget=GONE)},
    says=(
        less("still drawn", "sfd", "nothing forgotten", by=0.5),
        less("distance", "sfd", "pushed from its own", by=0.1),
    ),
    tune=Tune(
        "distance",
        {
            "sfd": GRID, "nothing forgotten": GRID, "critic stands still": GRID,
            "pushed from its own": {RATE: (1e-3, 3e-3), INSIDE: (-0.01, -0.1)},
        },
    ),
    control="critic stands still",
)  # fmt: skip
