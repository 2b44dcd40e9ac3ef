"""Two ways to measure one student, of which the better counts: so that every arm is sampled as suits it."""

from __future__ import annotations

from collections.abc import Mapping

from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.players import Players
from limbeck.probes.distribution import sliced_w2

__all__ = ["lesser"]

SW2 = sliced_w2()


@part
def lesser(players: Players, data: Mapping[str, Source], *, first: Expr = SW2, second: Expr = SW2) -> float:
    """The smaller of two probes.

    min(p1, p2)

    Args:
        players: what both probes ask.
        data: what both probes read.
        first: a probe, better small.
        second: another, in the same units.

    Returns:
        The smaller figure.
    """
    return min(float(probe(players, data)) for probe in (first, second))  # type: ignore[operator]
