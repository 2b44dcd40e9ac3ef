"""Claim: consistency and matching together come nearer to the data in one step than either alone.

Bed: a field of eight modes that was trained; the student starts as it. The tangent alone still draws between the modes,
and matching alone, from a start near the centre, is late in leaving it. All arms have the same critic and phases;
that of the control never learns.
"""

from __future__ import annotations

from limbeck.parts.levels import logit_normal_levels
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.parts.states import uniform_levels
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.roles import learning

EVEN, LOSS = uniform_levels(), "distill.student.loss"
TANGENT, MATCH = f"{LOSS}.consistency.weight", f"{LOSS}.match.weight"
RATES = {"student.optimizer.lr.start": (1.25e-3, 2.5e-3, 5e-3, 1e-2)}
GRID = {MATCH: (0.15, 0.5), "student.optimizer.lr.start": (2.5e-3, 5e-3)}

claim = Claim(
    bed="mog8_learnt",
    set={
        "distill.steps": 250, "distill.batch_size": 128, "distill.critic.times": 2,
        "distill.critic.batch.times": (1.0,), f"{LOSS}.match.states.times": (1.0,),
        "distill.critic.loss.levels": EVEN, f"{LOSS}.match.loss.levels": EVEN,
        "distill.student.batch.levels": logit_normal_levels(mean=0.5, std=1.6), f"{LOSS}.consistency.warm.share": 0.1,
        "critic": learning(adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.5, 0.95))),
        "student.optimizer": adamw(lr=linear(start=5e-3, end=2.5e-4), betas=(0.5, 0.95)), TANGENT: 1.0, MATCH: 0.5,
    },
    arms={
        "rcm": Arm(), "tangent alone": Arm(set={MATCH: 0.0}), "matching alone": Arm(set={TANGENT: 0.0}),
        "critic stands still": Arm(set={"critic.optimizer.lr": 0.0}),
    },
    probes={"sw2": sliced_w2(), "quality": mode_quality(), "recall": mode_recall()},
    says=(less("sw2", "rcm", "tangent alone", by=0.02), less("sw2", "rcm", "matching alone", by=0.02)),
    tune=Tune(
        "sw2",
        {
            "rcm": GRID, "critic stands still": GRID,
            "tangent alone": RATES, "matching alone": RATES,
        },
    ),
    control="critic stands still",
)  # fmt: skip
