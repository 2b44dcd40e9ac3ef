"""A schedule of two straight lines."""

from __future__ import annotations

from limbeck.batch import Moment
from limbeck.part import part

__all__ = ["triangle"]


@part
def triangle(at: Moment, *, peak: float = 1.0, end: float = 0.0, warmup: float = 0.1) -> float:
    """A linear rise from zero, then a linear fall to the end of the stage.

    peak (step + 1) / (warmup steps) while it rises, then peak + (end - peak) u, where u runs from 0 to 1

    Args:
        at: the place in the stage.
        peak: the value when the warm-up is over.
        end: the value at the last step.
        warmup: the share of the steps in which the value rises; the first step is already above zero.

    Returns:
        The value.

    Example:
        >>> [round(triangle()(Moment(step, 101)), 4) for step in (0, 55, 100)]
        [0.099, 0.5, 0.0]
    """
    rising = warmup * at.steps
    if at.step + 1 < rising:
        return peak * (at.step + 1) / rising
    left = (at.progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    return peak + (end - peak) * max(0.0, left)
