"""Schedules: parts `(at)` that return a number; they may stand wherever a hyper-parameter is a number.

`at.progress` runs from 0 at the first step of a stage to 1 at its last.
"""

from __future__ import annotations

import math

from limbeck.batch import Moment
from limbeck.part import part

__all__ = ["cosine", "linear", "piecewise"]


@part
def linear(at: Moment, *, start: float = 0.0, end: float = 1.0) -> float:
    """A straight line over the stage.

    start + (end - start) progress

    Args:
        at: the place in the stage.
        start: the value at the first step.
        end: the value at the last step.

    Returns:
        The value.

    Example:
        >>> linear(start=1.0, end=0.0)(Moment(step=5, steps=11))
        0.5
    """
    return start + (end - start) * at.progress


@part
def cosine(at: Moment, *, start: float = 1.0, end: float = 0.0, warmup: float = 0.0) -> float:
    """Half a cosine from start to end, after a linear rise from zero.

    end + (start - end) (1 + cos(pi u)) / 2, where u runs from 0 to 1 after the warm-up

    Args:
        at: the place in the stage.
        start: the value when the warm-up is over.
        end: the value at the last step.
        warmup: the share of the steps in which the value rises; the first step is already above zero.

    Returns:
        The value.

    Example:
        >>> cosine(start=1.0, warmup=0.1)(Moment(step=0, steps=100))
        0.1

    Source: Loshchilov and Hutter, arXiv:1608.03983, cosine annealing.
    """
    rising = warmup * at.steps
    if at.step + 1 < rising:
        return start * (at.step + 1) / rising
    left = (at.progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    return end + (start - end) * (1 + math.cos(math.pi * max(0.0, left))) / 2


@part
def piecewise(at: Moment, *, values: tuple[float, ...] = (1.0, 0.1), until: tuple[float, ...] = (0.5,)) -> float:
    """A staircase: the i-th value holds until the i-th share of the stage is over, the last one to the end.

    values[i] for until[i-1] <= progress < until[i]

    Args:
        at: the place in the stage.
        values: the values, one more than there are borders.
        until: the borders, rising, as shares of the stage.

    Returns:
        The value.

    Example:
        >>> [piecewise()(Moment(step, 11)) for step in (4, 5)]
        [1.0, 0.1]
    """
    return values[sum(at.progress >= border for border in until)]
