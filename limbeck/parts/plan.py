"""Solvers that learn: their times and coefficients belong to a player, `solver`, and the field to another.

The player answers "grid", its times (B, n + 1), and whatever coefficients its solver part reads; that part asks the
student for the field, as all solvers do, and `.on(student="teacher")` sends it to a teacher. So what is learned is a
few numbers, and the product of such a recipe is the player `solver`, with which the teacher is sampled. Asked for "x0"
of pure noise it makes the whole run, so that it may sit wherever a generator of one step does.

Shapes: B rows, n + 1 times; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.solver import euler, third
from limbeck.parts.states import like
from limbeck.players import Player, Players
from limbeck.roles import frozen

__all__ = ["Planned", "planned_sample", "planned_start", "refined", "solved_ends"]

EULER, THIRD = euler(), third()


class Planned(nn.Module):
    """The numbers of a solver, which knows whose field it solves; the field is none of its weights."""

    def of(self, players: Players | None, solver: Expr) -> Self:
        """Take the field of the player `teacher`, where there is one, and the solver part that reads the numbers."""
        there = players is not None and "teacher" in players
        self.run = [(players.teacher.module, solver)] if there else []  # type: ignore[union-attr]
        return self

    def end(self, batch: Mapping[str, Any]) -> Tensor:
        """Where noise in x ends, (B, ...).

        Raises:
            BadValue: a state below t = 1, or a solver that knows of no teacher.
        """
        if not self.run or bool((batch["t"] < 1).any()):
            raise BadValue('a learned solver answers "x0" for pure noise, t = 1, along the field of its teacher')
        rows = batch if isinstance(batch, Batch) else Batch(batch)
        net, solver = self.run[0]
        players = Players({"student": Player("field", frozen(), net), "solver": Player("solver", frozen(), self)})
        end: Tensor = solver(players, planned_start(players, rows, rows.x))[-1]
        return end


def refined(grid: Tensor, merge: int) -> Tensor:
    """Times with further ones between them, at equal distances.

    Args:
        grid: (B, n + 1) times.
        merge: how many steps take the place of one.

    Returns:
        (B, n merge + 1); every `merge`-th is a time of the grid.

    Raises:
        BadValue: fewer than one.

    Example:
        >>> refined(torch.tensor([[1.0, 0.5, 0.0]]), 2)
        tensor([[1.0000, 0.7500, 0.5000, 0.2500, 0.0000]])
    """
    if merge < 1:
        raise BadValue(f"one step is refined into one or more, got {merge}")
    inside = torch.arange(merge, dtype=grid.dtype, device=grid.device) / merge
    start, end = grid[:, :-1, None], grid[:, 1:, None]
    return torch.cat(((start + (end - start) * inside).flatten(1), grid[:, -1:]), 1)


def planned_start(players: Players, batch: Batch, z: Tensor | None = None) -> Batch:
    """Noise at the first time of the player `solver`, and its times.

    x = t_0 z, z ~ N(0, I): just below 1 what is left of the datum is neglected

    Args:
        players: `solver` answers "grid".
        batch: rows whose column x has the shape of a datum.
        z: (B, ...) the noise, if it is given; drawn otherwise.

    Returns:
        The batch with the start in x and the times (B, n + 1) in `grid`.

    Raises:
        UnknownName: there is no player `solver`.
    """
    z = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype) if z is None else z
    grid = players.solver(batch.with_(x=z), "grid")
    return batch.with_(x=like(grid[:, 0], z) * z, grid=grid)


@part
def planned_sample(players: Players, batch: Batch, *, solver: Expr = EULER) -> Tensor:
    """Sample the student along the times of the player `solver`.

    x(t_n), from x(t_0) = t_0 z, z ~ N(0, I)

    Args:
        players: `solver` answers "grid" and what the solver part reads; the student what it asks.
        batch: rows whose column x has the shape of a datum.
        solver: a solver part.

    Returns:
        (B, ...) samples.

    Raises:
        UnknownName: there is no player `solver`.

    Example:
        `ends = planned_sample(solver=leaning()).on(student="teacher")(players, batch)`
    """
    return solver(players, planned_start(players, batch))[-1]  # type: ignore[no-any-return, operator]


@part
def solved_ends(
    players: Players, batch: Batch, *, solver: Expr = THIRD, times: tuple[float, ...] = (1.0, 0.5, 0.0)
) -> Batch:
    """Noise, and where a solver carries it along the student's field: the lessons of a solver with fewer steps.

    end = x(t_n), from x(t_0) = t_0 z, z ~ N(0, I)

    Args:
        players: the student answers what the solver asks.
        batch: rows whose column x has the shape of a datum.
        solver: a solver part.
        times: falling times, from 1 or just below.

    Returns:
        The batch with z in x and the sample in `end`.

    Raises:
        BadValue: fewer than two times, or times that rise.

    Source: Oganov et al., arXiv:2510.17699, the samples of the teacher.
    """
    if len(times) < 2 or any(s >= t for t, s in pairwise(times)):
        raise BadValue(f"samples are drawn over falling times, two or more, got {times}")
    z = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
    grid = torch.tensor(times, dtype=z.dtype, device=z.device).expand(batch.size, -1)
    end = solver(players, batch.with_(x=times[0] * z, grid=grid))[-1]  # type: ignore[operator]
    return batch.with_(x=z, end=end)
