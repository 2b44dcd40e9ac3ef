"""Solvers that use again what they have asked already.

Shapes: B rows, n + 1 times; a datum has any shape.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = ["reused_midpoint"]


@part
def reused_midpoint(players: Players, batch: Batch) -> list[Tensor]:
    """The midpoint rule whose way to the middle is the slope at the last middle: order 2 at one evaluation a step.

    x_m = x_t + (s - t) / 2 w,  w <- v(x_m, (t + s) / 2),  x_s = x_t + (s - t) w;  at first w = v(x, t)

    The old slope is off by O(s - t), and so is x_m by O((s - t)^2), which is what the rule bears.

    Args:
        players: the student answers "velocity" on columns x, t; n + 1 times for n steps.
        batch: the start in x, the times (B, n + 1) in `grid`, rising or falling.

    Returns:
        n + 1 states, (B, ...) each.

    Source: Deng et al., arXiv:2412.07517.
    """
    x, states, times = batch.x, [batch.x], batch.grid.to(batch.x.dtype).T
    w = players.student(batch.with_(x=x, t=times[0]), "velocity")
    for t, s in pairwise(times):
        half = (t + s) / 2
        w = players.student(batch.with_(x=x + like(half - t, x) * w, t=half), "velocity")
        x = x + like(s - t, x) * w
        states.append(x)
    return states
