"""Halving: a student learns to do in one step of a solver what its teacher does in two, round after round.

How many steps the student takes in the present round is kept by the state player `ladder`. A stage begins a round by
`halve`; when it is over the student becomes the teacher. Steps are even in the time u of the cosine path and are taken
on the rectified-flow path at the same ratio of noise to signal,

    t(u) = sin(pi u / 2) / (sin(pi u / 2) + cos(pi u / 2)),

where DDIM is the straight step (see `limbeck.parts.solver`).

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.solver import EULER, even, solve
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = [
    "Ladder",
    "cosine_levels",
    "cosine_times",
    "halve",
    "ladder",
    "landing",
    "landing_states",
    "landing_target",
    "snr_weight",
    "truncated_weight",
]


def cosine_levels(u: Tensor) -> Tensor:
    """Carry times of the cosine path to levels of rectified flow.

    t = sin(pi u / 2) / (sin(pi u / 2) + cos(pi u / 2))

    Args:
        u: times in [0, 1].

    Returns:
        Levels in [0, 1], of the same shape.

    Example:
        >>> cosine_levels(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.5000, 1.0000])

    Source: Salimans and Ho, arXiv:2202.00512, for the path.
    """
    s, a = (math.pi / 2 * u).sin(), (math.pi / 2 * (1 - u)).sin()  # cos(pi / 2) is not 0 in floating point, sin(0) is
    return s / (s + a)


def cosine_times(steps: int) -> tuple[float, ...]:
    """The grid of a student that takes so many steps.

    t(u) at u = 1, 1 - 1/n, ..., 0

    Args:
        steps: n.

    Returns:
        steps + 1 falling times.

    Raises:
        BadValue: fewer than one step.

    Example:
        >>> [round(t, 4) for t in cosine_times(2)]
        [1.0, 0.5, 0.0]
    """
    return tuple(cosine_levels(torch.tensor(even(steps), dtype=torch.float64)).tolist())


# -- rounds -----------------------------------------------------------------------------------------------------------


class Ladder(nn.Module):
    """How many steps the student takes in this round.

    Args:
        steps: what the first teacher takes.

    Example:
        >>> int(Ladder(8).steps)
        8
    """

    steps: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.register_buffer("steps", torch.tensor(steps))


@part
def ladder(players: Players, batch: Batch, *, start: int = 8192) -> Ladder:
    """Build the player that counts the steps.

    n = start, before the first round

    Args:
        players: not asked.
        batch: not asked.
        start: the steps of the first teacher, a power of two times the steps of the last student.

    Returns:
        The module.

    Raises:
        BadValue: fewer than two steps.

    Source: Salimans and Ho, arXiv:2202.00512 (8192 steps on CIFAR-10, as in its code, 1024 on larger pictures).
    """
    if start < 2:
        raise BadValue(f"a teacher needs two steps or more to be halved, got start = {start}")
    return Ladder(start)


@part
def halve(players: Players, batch: Batch, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Begin a round: the student takes half the steps. A step of a *solve* stage.

    n <- n / 2

    Args:
        players: `ladder`.
        batch: not asked.
        state: stays empty.

    Returns:
        The state, and the steps that the student now takes.

    Raises:
        BadValue: an odd number of steps: there are more rounds than the first number of steps has factors of two.
    """
    steps = players.ladder.steps
    if int(steps) % 2:
        raise BadValue(f"{int(steps)} steps cannot be halved: fewer rounds, or a start with more factors of two")
    steps.floor_divide_(2)
    return state, {"steps": float(steps)}


# -- states and targets -----------------------------------------------------------------------------------------------


@part
def landing_states(players: Players, batch: Batch, *, solver: Expr = EULER, steps: int = 2) -> Batch:
    """Noised data at the times of the student's grid, and where the teacher comes to in one step of that grid.

    x_t = (1 - t) x0 + t e at u = i / n, i ~ U{1 .. n};  the teacher goes to s, at u = (i - 1) / n, in 2 steps

    Args:
        players: `ladder` says n; the teacher answers what the solver asks.
        batch: rows whose column x is a datum.
        solver: a solver part; `euler` is DDIM.
        steps: the steps of the teacher to one of the student.

    Returns:
        The batch with the state in x, its level in t, the level s to reach in `level`, where the teacher lands in
        `landed`, and the datum in `real`.

    Raises:
        UnknownName: there is no player `ladder`, or none `teacher`.
        BadValue: fewer than one step of the teacher.

    Source: Salimans and Ho, arXiv:2202.00512, progressive distillation.
    """
    if steps < 1:
        raise BadValue(f"the teacher takes at least one step to one of the student, got steps = {steps}")
    x0, n = batch.x, int(players.ladder.steps)
    i = 1 + batch.rng.integers("step", n).view(-1).to(x0.dtype)
    grid = [cosine_levels((i - k / steps) / n) for k in range(steps + 1)]
    e = batch.rng.normal("noise", *x0.shape[1:]).to(x0.dtype)
    x = (1 - like(grid[0], x0)) * x0 + like(grid[0], x0) * e
    landed = solve(players.teacher, batch, solver, x, grid)[-1]
    return batch.with_(x=x, t=grid[0], level=grid[-1], landed=landed, real=x0)


def landing_target(x: Tensor, landed: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The datum from which one step of DDIM lands where it should.

    x~ = (x_s - (s / t) x_t) / (1 - s / t)

    Args:
        x: (B, ...) states at level t.
        landed: (B, ...) where to land, at level s.
        t: (B,), above s.
        s: (B,).

    Returns:
        (B, ...).

    Example:
        >>> landing_target(torch.ones(1, 1), torch.full((1, 1), 0.5), torch.tensor([0.5]), torch.tensor([0.0]))
        tensor([[0.5000]])

    Source: Salimans and Ho, arXiv:2202.00512, the target of progressive distillation.
    """
    keep = like(s / t, x)
    return (landed - keep * x) / (1 - keep)


@part
def landing(players: Players, batch: Batch) -> Tensor:
    """One step of the student lands where the teacher's two did.

    |x0_student(x_t, t) - x~|^2, x~ = (x_s - (s / t) x_t) / (1 - s / t)

    Args:
        players: the student answers "x0" on columns x, t.
        batch: the states of `landing_states`.

    Returns:
        (B,).

    Raises:
        UnknownName: the batch has no column `landed`.

    Source: Salimans and Ho, arXiv:2202.00512, progressive distillation.
    """
    target = landing_target(batch.x, batch.landed, batch.t, batch.level)
    return (players.student(batch, "x0") - target).square().flatten(1).sum(1)


# -- weights ----------------------------------------------------------------------------------------------------------


def _snr(batch: Batch) -> Tensor:
    return ((1 - batch.t) / batch.t).square()


@part
def truncated_weight(players: Players, batch: Batch) -> Tensor:
    """Weigh an error of the datum as one of the noise, but never below 1: pure noise must teach too.

    w = max(snr, 1), snr = ((1 - t) / t)^2

    Args:
        players: not asked.
        batch: states with their level in t, above 0.

    Returns:
        (B,).

    Example:
        >>> truncated_weight()(None, Batch({"t": torch.tensor([0.25, 1.0])}))
        tensor([9., 1.])

    Source: Salimans and Ho, arXiv:2202.00512, the weights of the loss.
    """
    return _snr(batch).clamp(min=1)


@part
def snr_weight(players: Players, batch: Batch, *, plus: float = 1.0) -> Tensor:
    """Weigh an error of the datum as one of v = a e - s x0; with plus = 0, as one of the noise.

    w = snr + plus, snr = ((1 - t) / t)^2

    Args:
        players: not asked.
        batch: states with their level in t, above 0.
        plus: 1 for v; 0 for the noise, under which pure noise teaches nothing.

    Returns:
        (B,).

    Example:
        >>> snr_weight()(None, Batch({"t": torch.tensor([0.25, 1.0])}))
        tensor([10.,  1.])

    Source: Salimans and Ho, arXiv:2202.00512, the weights of the loss.
    """
    return _snr(batch) + plus
