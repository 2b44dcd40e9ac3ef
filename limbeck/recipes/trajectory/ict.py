"""iCT: consistency models from data alone, without a moving average in the target and without a learned distance.

Two noisy versions of a datum, of neighbouring levels and one noise, must be mapped to the same place. The target is the
student itself, errors are measured by a robust distance, levels follow a lognormal density, and the ladder of levels
doubles as training goes on: a small ladder has little variance, a large one little bias.
"""

from __future__ import annotations

from limbeck.parts.consistency import consistency, gap_weight
from limbeck.parts.distance import pseudo_huber
from limbeck.parts.doubling import doubling
from limbeck.parts.neighbours import ladder_step, line_states
from limbeck.parts.optimizer import adam
from limbeck.parts.states import few_step
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import ema_of, learning

LOSS = gap_weight() * consistency(distance=pseudo_huber(c=0.00054))
STATES = ladder_step(rungs=doubling(start=10.0, end=1280.0), mean=-1.1, std=2.0) >> line_states()

recipe = Recipe(
    key="ict",
    title="Improved Techniques for Training Consistency Models",
    paper="arXiv:2310.14189",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="none",
    players={"student": learning(adam(lr=1e-4)), "target": ema_of("student", decay=0.0)},
    stages=(Learn("distill", (Phase("student", ("student",), LOSS, STATES),), steps=400_000, batch_size=1024),),
    sampler=few_step(),
    deviates=(
        "levels are those of the paper on the rectified-flow path, t = sigma / (1 + sigma)",
        "f(x, 0) = x holds at the datum instead of at sigma = 0.002, so the ladder has one more step, down to 0",
        "Adam instead of rectified Adam, which differs in the first steps",
        "the weights that sample are those of the last step; the paper keeps a moving average of rate 0.99993 of them",
        "dropout and the scale of the net's Fourier features are the net's own affair",
    ),
)
