"""A sampler for flows that are nearly straight: each step starts from the line between the first noise and the guess.

Shapes: B rows, n + 1 times; a datum has any shape.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = ["endpoint"]


@part
def endpoint(players: Players, batch: Batch) -> list[Tensor]:
    """A solver that goes back to the noise it came from: one evaluation a step.

    x_s = (1 - s) x0(x_t, t) + s e, with e the noise of the start

    Args:
        players: the student answers "x0" on columns x, t.
        batch: the start in x, falling times (B, n + 1) in `grid`; what is left of the datum there is neglected.

    Returns:
        n + 1 states, (B, ...) each.

    Source: Lee et al., arXiv:2405.20320, section 5.
    """
    grid = batch.grid.to(batch.x.dtype)
    e = batch.x / like(grid[:, 0], batch.x)
    states = [batch.x]
    for t, s in pairwise(grid.T):
        x0 = players.student(batch.with_(x=states[-1], t=t), "x0")
        states.append(like(1 - s, x0) * x0 + like(s, x0) * e)
    return states
