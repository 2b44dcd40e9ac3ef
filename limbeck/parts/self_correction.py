"""A flow that corrects itself: what it says in one step is made a straight line, on which it must then stay.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.gan import gan_generator
from limbeck.parts.states import like, noise_states
from limbeck.players import Players

__all__ = ["from_noise", "self_reflow"]

FOOLING = gan_generator()


@part
def from_noise(players: Players, batch: Batch, *, loss: Expr = FOOLING) -> Tensor:
    """A loss on what the student makes of pure noise, beside losses on noised data.

    loss at x = e ~ N(0, I), t = 1

    Args:
        players: what the loss asks.
        batch: rows with a column x of the shape of a datum; `real` stays as it is.
        loss: a loss part.

    Returns:
        (B,).
    """
    start = noise_states.fn(players, batch)
    return loss(players, start.with_(real=batch.get("real", batch.x)))  # type: ignore[operator,no-any-return]


@part
def self_reflow(players: Players, batch: Batch) -> Tensor:
    """On the straight line from noise to its own one-step sample, the student must believe in that sample.

    mean (f(z, t) - sg[xh])^2, xh = f(e, 1), z = (1 - t) sg[xh] + t e, t ~ U(0, 1)

    Args:
        players: the student answers "x0", f, on columns x, t.
        batch: rows whose column x has the shape of a datum.

    Returns:
        (B,).

    Example:
        >>> from types import SimpleNamespace
        >>> sure = SimpleNamespace(student=lambda batch, want: torch.ones_like(batch.x))
        >>> self_reflow()(sure, Batch({"x": torch.zeros(2, 3)}))
        tensor([0., 0.])

    Source: Dao et al., arXiv:2412.16906, the reflow loss; Liu et al., arXiv:2209.03003, for pairs of its own.
    """
    start = noise_states.fn(players, batch)
    with torch.no_grad():
        end = players.student(start, "x0")
    t = batch.rng.uniform("line").view(-1).to(end.dtype)
    between = batch.with_(x=(1 - like(t, end)) * end + like(t, end) * start.x, t=t)
    return (players.student(between, "x0") - end).square().flatten(1).mean(1)
