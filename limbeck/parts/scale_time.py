"""Solvers in another scale and another time, both learned: a bespoke solver of one field.

In the time r from 0 (noise) to 1 (data) the scaled path c(r) x(t(r)) obeys dy/dr = f(y, r) with

    f(y, r) = (c' / c) y + t' c v(y / c, t)

and the midpoint rule with n steps of h = 1 / n in y is a solver of order two in x, whatever smooth t and c are. Learned
are the values of t, c and of their slopes at the 2 n + 1 half-steps, 8 n - 1 numbers. The loss bounds the error at the
end by those of single steps from the exact path, so that all steps are taken at once and none has to wait for another.

Shapes: B rows, n steps, K = 2 n + 1 knots at half-steps; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.plan import Planned, planned_start, refined
from limbeck.parts.solver import even, third
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = ["Knots", "ScaleTime", "exact_path", "rmse_bound", "scale_time", "scaled_midpoint"]

THIRD, TEN = third(), even(10)


@dataclass(frozen=True)
class Knots:
    """A change of scale and time at the half-steps, (B, K) each.

    Args:
        t: times, from 1 to 0.
        dt: their slopes in r, below 0.
        c: scales, 1 at first.
        dc: their slopes in r.
    """

    t: Tensor
    dt: Tensor
    c: Tensor
    dc: Tensor

    @property
    def h(self) -> float:
        """The length of a step in r."""
        return 2 / (self.t.shape[1] - 1)

    def field(self, v: Callable[[Tensor, Tensor], Tensor], y: Tensor, k: int) -> Tensor:
        """f(y, r) at knot k, (B, ...)."""
        t, dt, c, dc = self.t[:, k], self.dt[:, k], self.c[:, k], self.dc[:, k]
        return like(dc / c, y) * y + like(dt * c, y) * v(y / like(c, y), t)

    def step(self, v: Callable[[Tensor, Tensor], Tensor], x: Tensor, i: int) -> Tensor:
        """One step of the midpoint rule, from x at the i-th time to the next."""
        y = like(self.c[:, 2 * i], x) * x
        middle = y + self.h / 2 * self.field(v, y, 2 * i)
        return (y + self.h * self.field(v, middle, 2 * i + 1)) / like(self.c[:, 2 * i + 2], x)

    def growth(self, i: int, lipschitz: float) -> Tensor:
        """By how much the i-th step may drive two points apart, (B,), if the field has this Lipschitz constant.

        c_i / c_{i+1} (1 + h l_{i+1/2} (1 + h / 2 l_i)),  l = |c' / c| + |t'| L
        """
        start, middle = (
            (self.dc[:, k] / self.c[:, k]).abs() + self.dt[:, k].abs() * lipschitz for k in (2 * i, 2 * i + 1)
        )
        return self.c[:, 2 * i] / self.c[:, 2 * i + 2] * (1 + self.h * middle * (1 + self.h / 2 * start))


class ScaleTime(Planned):
    """A learned change of scale and time; at first none, so that the solver is the midpoint rule on the given times.

    Args:
        times: n + 1 of them, from 1 to 0.

    Example:
        >>> made = ScaleTime((1.0, 0.5, 0.0))({"x": torch.zeros(1, 3)}, frozenset({"grid"}))
        >>> made["grid"]
        tensor([[1.0000, 0.5000, 0.0000]], grad_fn=<SliceBackward0>)
    """

    def __init__(self, times: tuple[float, ...]) -> None:
        super().__init__()
        fall = -torch.tensor(times).diff().repeat_interleave(2) / 2  # of every half-step
        self.fall = nn.Parameter(fall.log())
        self.speed = nn.Parameter((fall * len(fall)).log())
        self.log_scale = nn.Parameter(torch.zeros(len(fall)))
        self.scale_slope = nn.Parameter(torch.zeros(len(fall)))

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "knots", and "grid" (B, n + 1), every second of its times, on x (B, ...); "x0" of pure noise, on t."""
        rows, zero = len(batch["x"]), torch.zeros_like(self.fall[:1])
        fallen = torch.cat((zero, self.fall.softmax(0).cumsum(0)))
        last = torch.cat((fallen[:-1], fallen[-1:].detach().round()))  # the last is 1, but for rounding
        knots = (
            1 - last, -torch.cat((self.speed, self.speed[-1:])).exp(),
            torch.cat((zero, self.log_scale)).exp(), torch.cat((self.scale_slope, zero)),
        )  # fmt: skip
        found = Knots(*(k.expand(rows, -1) for k in knots))
        out: dict[str, Any] = {"knots": found, "grid": found.t[:, ::2]}
        return out | ({"x0": self.end(batch)} if "x0" in want else {})


@part
def scaled_midpoint(players: Players, batch: Batch) -> list[Tensor]:
    """The midpoint rule in another scale and time: order 2, two evaluations a step.

    y = c_i x,  z = y + h / 2 f(y, r_i),  x_{i+1} = (y + h f(z, r_{i+1/2})) / c_{i+1}

    Args:
        players: `solver` answers "knots"; the student "velocity" on columns x, t.
        batch: the start in x, at t = 1.

    Returns:
        n + 1 states, (B, ...) each.

    Raises:
        UnknownName: there is no player `solver`.

    Source: Shaul et al., arXiv:2310.19075, the second-order rule.
    """
    knots: Knots = players.solver(batch.with_(), "knots")
    states = [batch.x]
    for i in range(knots.t.shape[1] // 2):
        states.append(knots.step(_velocity(players, batch), states[-1], i))
    return states


SCALED = scaled_midpoint()


@part
def scale_time(players: Players, batch: Batch, *, times: tuple[float, ...] = TEN, solver: Expr = SCALED) -> ScaleTime:
    """Build the player that changes scale and time.

    t(r), c(r) and their slopes at the half-steps; at first t = the times, c = 1

    Args:
        players: the teacher, whose field it solves; not asked.
        batch: some rows of data, for the device.
        times: falling times from 1 to 0; half of the evaluations.
        solver: the solver part with which it is run.

    Returns:
        The module.

    Raises:
        BadValue: times that do not fall from 1 to 0.

    Source: Shaul et al., arXiv:2310.19075, scale-time transformations.
    """
    if times[0] != 1 or times[-1] != 0 or any(s >= t for t, s in pairwise(times)):
        raise BadValue(f"a change of time falls from 1 to 0, got times = {times}")
    return ScaleTime(times).to(batch.device).of(players, solver)


def _velocity(players: Players, batch: Batch) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: players.student(batch.with_(x=x, t=t), "velocity")


@part
def exact_path(players: Players, batch: Batch, *, solver: Expr = THIRD, merge: int = 10) -> Batch:
    """Noise carried along the student's field by a fine solver, seen at the times of the player `solver`.

    x(t_i), v(x(t_i), t_i), from x(1) = z

    Args:
        players: `solver` answers "grid"; the student "velocity" on columns x, t.
        batch: rows whose column x has the shape of a datum.
        solver: a solver part.
        merge: fine steps between two of the times.

    Returns:
        The batch with the states in `path` and the velocities in `slope`, (B, n + 1, ...), and their times in `grid`.

    Raises:
        BadValue: fewer than one fine step.

    Source: Shaul et al., arXiv:2310.19075, the training of a solver.
    """
    start = planned_start(players, batch)
    path = solver(players, start.with_(grid=refined(start.grid, merge)))[::merge]  # type: ignore[operator]
    v = _velocity(players, batch)
    slope = [v(x, t) for x, t in zip(path, start.grid.to(batch.x.dtype).T, strict=True)]
    return start.with_(path=torch.stack(path, 1), slope=torch.stack(slope, 1))


@part
def rmse_bound(players: Players, batch: Batch, *, lipschitz: float = 1.0) -> Tensor:
    """A bound of the error at the end, by the errors of single steps from the exact path.

    sum_i M_i |x_i(t_i) - step(x_{i-1}(t_{i-1}))| / sqrt(D),  x_i(t) = sg[x(t_i)] + sg[v(x(t_i))] (t - sg[t_i]),
    M_i = product over j > i of the growth of the j-th step

    Args:
        players: `solver` answers "knots"; the student "velocity" on columns x, t.
        batch: the exact path, in columns `path`, `slope` and `grid`.
        lipschitz: L, of the velocity; with the true one the bound is one.

    Returns:
        (B,).

    Raises:
        UnknownName: the batch has no column `path`.

    Source: Shaul et al., arXiv:2310.19075, the bound of the error; the growth of a midpoint step is derived here.
    """
    knots: Knots = players.solver(batch.with_(), "knots")
    moved = (knots.t[:, ::2] - batch.grid.detach()).to(batch.path.dtype)
    near = batch.path + moved.view(*moved.shape, *[1] * (batch.path.ndim - 2)) * batch.slope
    v, weight = _velocity(players, batch), torch.ones_like(near[:, 0].flatten(1)[:, 0])
    total = torch.zeros_like(weight)
    for i in reversed(range(near.shape[1] - 1)):
        gap = (near[:, i + 1] - knots.step(v, near[:, i], i)).flatten(1)
        total = total + weight * gap.norm(dim=1) / gap.shape[1] ** 0.5
        weight = weight * knots.growth(i, lipschitz)
    return total
