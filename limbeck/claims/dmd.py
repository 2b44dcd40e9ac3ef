"""Claim: matching with regression on pairs comes nearer to the teacher than either alone.

Matching alone leaves modes out, and regression alone lays samples between them. Pairs are dear: there are 500 of them.
The control pairs the same data with other noise.

Bed: a grid whose outer modes a fresh generator does not reach; the teacher is exact.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.anchor import anchored
from limbeck.parts.distribution import distribution_matching
from limbeck.parts.optimizer import adamw
from limbeck.parts.pairs import sampled_pairs
from limbeck.parts.schedule import linear
from limbeck.parts.shuffled import shuffled
from limbeck.parts.solver import heun, karras
from limbeck.parts.states import uniform_levels
from limbeck.parts.thinning import thinned
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.roles import learning

# small nets that must follow a moving target within a few hundred steps
QUICK = adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.5, 0.95))
EVEN = uniform_levels()
LOSS, RATE = "distill.student.loss", "student.optimizer.lr.start"
RATES = {RATE: (1.25e-3, 2.5e-3, 5e-3, 1e-2)}
GRID = {f"{LOSS}.regression.weight": (0.25, 1.0), RATE: (2.5e-3, 5e-3)}
PAIRS = thinned(every=10) >> sampled_pairs(solver=heun(), times=karras(18)) >> shuffled(columns=("e",))

claim = Claim(
    bed="mog25",
    set={
        "pairs.rows.thinned.every": 10, "distill.steps": 400, "distill.batch_size": 128,
        "distill.critic.loss.levels": EVEN, "distill.critic.loss.sigma_data": 1.4, f"{LOSS}.match.levels": EVEN,
        "critic": learning(QUICK),
        "student.optimizer": adamw(lr=linear(start=5e-3, end=2.5e-4), betas=(0.5, 0.95)),
    },
    arms={
        "dmd": Arm(),
        "shuffled": Arm(set={"pairs.rows": PAIRS}),
        "matching": Arm(set={LOSS: terms(match=distribution_matching(levels=EVEN))}),
        "regression": Arm(set={LOSS: terms(regression=anchored())}),
    },
    probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
    says=(less("sw2", "dmd", "matching", by=0.03), less("sw2", "dmd", "regression", by=0.03)),
    tune=Tune(
        "sw2",
        {
            "dmd": GRID,
            "shuffled": GRID,
            "matching": RATES,
            "regression": RATES,
        },
    ),
    control="shuffled",
)  # fmt: skip
