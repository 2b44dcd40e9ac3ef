"""Average velocities learnt from one condition: what is left of the way, differentiated along the way.

The average velocity u(x, t, s) on the way from t down to s satisfies (t - s) u = the integral of v from s to t, and its
derivative along the trajectory is

    u = v - (t - s) du/dt,  du/dt = dt u + (dx u) v,

so that a net may take its own derivative for its target. The derivative is taken exactly, in the forward that the loss
needs anyway, or by a difference that reuses this forward; its step is checked against the exact one when the run
starts, for no step fits all nets.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.flowmap import average_velocity, triangle_states
from limbeck.parts.held import held_jvp
from limbeck.parts.jvp import checked_step, difference
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = ["DifferenceStep", "difference_step", "mean_velocity", "mean_velocity_by_difference"]

TRIANGLE = triangle_states()


def _regressed(batch: Batch, u: Tensor, du: Tensor) -> Tensor:
    """|u - sg[v - (t - s) du/dt]|^2, summed over coordinates."""
    target = batch.velocity - like(batch.t - batch.s, u) * du.detach()
    return (u - target.detach()).square().flatten(1).sum(1)


@part
def mean_velocity(players: Players, batch: Batch) -> Tensor:
    """The average velocity is the velocity less its own change along the way.

    |u - sg[v - (t - s) (dt u + (dx u) v)]|^2

    Args:
        players: the student answers "velocity" on columns x, t, s.
        batch: the states, with s <= t, and v in `velocity`: e - x0, or what a teacher says.

    Returns:
        (B,).

    Raises:
        UnknownName: the batch has no column `velocity`.

    Source: Geng et al., arXiv:2505.13447, equations 9 to 11.
    """
    x, t, s = batch.x, batch.t, batch.s
    u, du = held_jvp(
        lambda y, r: average_velocity(players, batch, y, r, s), (x, t), (batch.velocity.to(x), torch.ones_like(t))
    )
    return _regressed(batch, u, du)


@part
def mean_velocity_by_difference(players: Players, batch: Batch) -> Tensor:
    """The same with a difference in place of the derivative: one forward without gradient more than the loss itself.

    |u - sg[v - (t - s) (u(x + h v, t + h, s) - u) / h]|^2; -h in place of h where t + h would pass 1

    Args:
        players: the student answers "velocity" on columns x, t, s; `step` answers "step", h.
        batch: the states, with s <= t, and v in `velocity`.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `step`, or no column `velocity`.

    Source: Geng et al., arXiv:2505.13447, equations 9 to 11.
    """
    x, t, s = batch.x, batch.t, batch.s
    u = average_velocity(players, batch, x, t, s)
    h = torch.as_tensor(players.step(batch, "step"), dtype=t.dtype, device=t.device)
    h = torch.where(t + h > 1, -h, h)
    with torch.no_grad():
        fn, along = lambda y, r: average_velocity(players, batch, y, r, s), (like(h, x) * batch.velocity, h)
        change = difference(fn, (x, t), along, 1.0, u.detach())[1] / like(h, x)
    return _regressed(batch, u, change)


class DifferenceStep(nn.Module):
    """The step of a difference, found once and kept with the run.

    Args:
        step: h.
        error: how far the difference was from the derivative where it was checked, relative to its size.

    Example:
        >>> DifferenceStep(1e-3, 0.01)({}, frozenset({"step"}))["step"]
        tensor(0.0010)
    """

    step: Tensor
    error: Tensor

    def __init__(self, step: float, error: float) -> None:
        super().__init__()
        self.register_buffer("step", torch.tensor(step))
        self.register_buffer("error", torch.tensor(error))

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Tensor]:
        """Answer "step" and "error", ()."""
        return {"step": self.step, "error": self.error}


@part
def difference_step(players: Players, batch: Batch, *, states: Expr = TRIANGLE, rows: int = 8) -> DifferenceStep:
    """Build the player that knows the step of differences: the one nearest to the exact derivative on a few rows.

    argmin_h |(u(x + h v, t + h, s) - u) / h - du/dt|

    Args:
        players: the student answers "velocity" on columns x, t, s.
        batch: some rows of data.
        states: a batch part, which gives columns x, t, s and `velocity`.
        rows: how many of them, at most.

    Returns:
        The module.

    Raises:
        BadValue: no step comes within 5% of the derivative.
    """
    seen = states(players, batch.rows(slice(0, rows)))  # type: ignore[operator]

    def fn(x: Tensor, t: Tensor) -> Tensor:
        return average_velocity(players, seen, x, t, seen.s)

    found = checked_step(fn, (seen.x, seen.t), (seen.velocity.to(seen.x), torch.ones_like(seen.t)))
    return DifferenceStep(*found).to(batch.device)
