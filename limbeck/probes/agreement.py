"""How far two ways of sampling one student come from the same noise.

Shapes: N samples, D coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping

from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.solver import even, ode_sample
from limbeck.players import Players
from limbeck.probes.distribution import sampled

__all__ = ["sampler_gap"]

ONE, FOUR = ode_sample(times=even(1)), ode_sample(times=even(4))


@part
def sampler_gap(
    players: Players, data: Mapping[str, Source], *, first: Expr = ONE, second: Expr = FOUR, rows: int = 2_000
) -> float:
    """Squared distance between what two samplers make of the same noise.

    mean |x_first(e) - x_second(e)|^2

    Args:
        players: the student that is sampled.
        data: the test split, whose rows give the noise its seeds.
        first: a sampler.
        second: another, which draws its noise under the same name.
        rows: how many samples, at most.

    Returns:
        The gap, in squared units of the data.

    Source: Dao et al., arXiv:2412.16906, who ask that one and four steps show the same picture.
    """
    a, b = (sampled(players, data, draw, rows)[0] for draw in (first, second))
    return float((a - b).square().sum(1).mean())
