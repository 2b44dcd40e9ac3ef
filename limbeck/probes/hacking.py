"""Measures of teacher hacking: does a student go on towards its teacher while it goes away from the truth?

The metrics lie in the player `trace` (see `limbeck.parts.trace`): `golden`, the distance from the truth; `proxy`, that
from the teacher on held-out prompts; `seen`, that from the teacher on the very rows that are learned from. All are
distances: smaller is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from limbeck.data import Source
from limbeck.part import part
from limbeck.players import Players

__all__ = ["departure", "left", "lowest", "onset", "rise"]


def departure(golden: Sequence[float], proxy: Sequence[float], *, tolerance: float = 0.05, least: int = 3) -> int:
    """Find where the golden metric leaves its power law for good while the proxy keeps falling.

    With log M(n) = a + b log n fitted to the points before n, n is the first from which on golden lies above the line
    by more than the tolerance at every point, and from which the proxy still falls to the end.

    Args:
        golden: one figure at each of equally spaced moments 1, 2, ..., all positive.
        proxy: one at the same moments.
        tolerance: in natural logarithms: 0.05 is five per cent above the law.
        least: points that the first line is fitted to, at least 2.

    Returns:
        The moment, counted from 1; 0 if there is none.

    Example:
        >>> golden = [1 / n for n in range(1, 6)] + [0.25, 0.3, 0.35]
        >>> departure(golden, [1 / n for n in range(1, 9)])
        6

    Source: Tiapkin et al., arXiv:2502.02671, who see it by the eye in such a plot.
    """
    log_n, log_m = np.log(np.arange(1, len(golden) + 1)), np.log(np.asarray(golden, dtype=float))
    for n in range(least, len(golden)):
        slope, height = np.polyfit(log_n[:n], log_m[:n], 1)
        above = log_m[n:] - (height + slope * log_n[n:])
        if (above > tolerance).all() and proxy[-1] < proxy[n - 1]:
            return n + 1
    return 0


def _series(players: Players, name: str) -> list[float]:
    return [float(v) for v in players["trace"].read(name)]


@part
def rise(players: Players, data: Mapping[str, Source], *, of: str = "golden") -> float:
    """By how much a metric ends above the lowest value that it had.

    M(end) / min_n M(n) - 1

    Args:
        players: the player `trace`.
        data: not read.
        of: the series.

    Raises:
        UnknownName: the trace has no such series.
    """
    series = _series(players, of)
    return series[-1] / min(series) - 1


@part
def lowest(players: Players, data: Mapping[str, Source], *, of: str = "golden") -> float:
    """The lowest value that a metric had.

    min_n M(n)

    Args:
        players: the player `trace`.
        data: not read.
        of: the series.

    Raises:
        UnknownName: the trace has no such series.
    """
    return min(_series(players, of))


@part
def left(players: Players, data: Mapping[str, Source], *, of: str = "seen", since: str = "golden") -> float:
    """What is left at the end of a metric as it was when another one had its lowest value: under 1, it fell on.

    M(end) / M(argmin_n M'(n))

    Args:
        players: the player `trace`.
        data: not read.
        of: the series M.
        since: the series M'.

    Raises:
        UnknownName: the trace has no such series.
    """
    series, other = _series(players, of), _series(players, since)
    return series[-1] / series[other.index(min(other))]


@part(higher=True)
def onset(players: Players, data: Mapping[str, Source], *, proxy: str = "seen", tolerance: float = 0.05) -> float:
    """When hacking sets in, as a share of the run; 1 where it does not.

    departure / points

    Args:
        players: the player `trace`.
        data: not read.
        proxy: the series that is to keep falling.
        tolerance: how far above its power law golden must lie, in natural logarithms.

    Raises:
        UnknownName: the trace has no such series.
    """
    golden = _series(players, "golden")
    found = departure(golden, _series(players, proxy), tolerance=tolerance)
    return found / len(golden) if found else 1.0
