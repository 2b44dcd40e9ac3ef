"""PVD: one kind of radiance field becomes another, block by block, without a picture.

First the features of the first block are matched, then density and colour at points too, then the colours of rays.
Density is compared within bounds: beyond them it can hardly be seen, and only disturbs. Rays come from random poses.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.optimizer import adam
from limbeck.parts.volume_distillation import density_matching, random_rays, ray_matching, volume_matching
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import frozen, learning

FEATURES, DENSITY, COLOUR = volume_matching(), density_matching(), volume_matching(of="colour")
POINTS = terms(features=2e-3 * FEATURES, density=2e-3 * DENSITY, colour=2e-3 * COLOUR)
RAYS = terms(density=2e-3 * DENSITY, colour=2e-3 * COLOUR, ray=1.0 * ray_matching())


def _phase(loss: object) -> tuple[Phase, ...]:
    return (Phase("student", ("student",), loss, random_rays()),)  # type: ignore[arg-type]


recipe = Recipe(
    key="pvd",
    title="One is All: Bridging the Gap Between Neural Radiance Fields Architectures with Progressive Volume "
    "Distillation",
    paper="arXiv:2211.15977",
    family="score",
    kind="method",
    learns="a radiance field of another kind",
    teacher="white-box",
    players={"student": learning(adam(lr=1e-3)), "teacher": frozen()},
    stages=(
        Learn("features", _phase(terms(features=2e-3 * FEATURES)), steps=2_000, batch_size=4096),
        Learn("points", _phase(POINTS), steps=3_000, batch_size=4096),
        Learn("rays", _phase(RAYS), steps=25_000, batch_size=4096),
    ),
    deviates=(
        "the weight of the features stands for two stages and is then gone; in the code it falls by 0.5% a step",
        "losses are means of squares; by default those of the code are norms over the batch, with the same weights",
        "Adam at the rate of the code for perceptrons; the code has AdamW, and ten times the rate for other fields",
        "density is clamped where it is compared; the code clamps it inside both fields, so that none is ever emptier",
        "first blocks give features of one size, so that no projection stands between them",
        "no penalty on the density of grids, which the code offers for students of that kind",
    ),
)
