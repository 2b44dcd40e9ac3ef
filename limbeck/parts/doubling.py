"""A curriculum that doubles: few steps at first, for a steady signal, many in the end, for a small bias."""

from __future__ import annotations

import math

from limbeck.batch import Moment
from limbeck.part import part

__all__ = ["doubling"]


@part
def doubling(at: Moment, *, start: float = 10.0, end: float = 1280.0) -> float:
    """Levels of a ladder whose steps double in equal intervals, until there are enough.

    N(k) = min(s0 2^floor(k / K'), s1) + 1, K' = floor(K / (log2 floor(s1 / s0) + 1)), K steps in all

    Args:
        at: the place in the stage.
        start: s0, steps of the ladder at first.
        end: s1, steps of the ladder in the end.

    Returns:
        N(k), one more than the steps between the levels.

    Example:
        >>> [doubling(start=2.0, end=8.0)(Moment(k, 30)) for k in (0, 9, 10, 29)]
        [3.0, 3.0, 5.0, 9.0]

    Source: Song and Dhariwal, arXiv:2310.14189, the exponential curriculum.
    """
    stages = math.log2(max(1, math.floor(end / start))) + 1
    interval = max(1, math.floor(at.steps / stages))
    return min(start * 2.0 ** min(at.step // interval, 64), end) + 1
