"""A net that takes the few steps of a solver, each taught by where the teacher's trajectory is at its end.

The states that the steps start from are the student's own, so that a step also makes up for the errors of those before.
Straight steps are x + (s - t) v(x, t). Nothing is drawn but the noise at the start.

Shapes: B rows, n + 1 times; a datum has any shape.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.plan import refined
from limbeck.parts.solver import dpm_multistep, even
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = ["all_steps", "analytic_euler", "one_step", "teacher_path"]

THIRD, FOUR = dpm_multistep(order=3), even(4)


@part
def teacher_path(
    players: Players,
    batch: Batch,
    *,
    solver: Expr = THIRD,
    times: tuple[float, ...] = FOUR,
    merge: int = 4,
    analytic: bool = False,
) -> Batch:
    """Noise, and where the teacher carries it at each of the student's times.

    y_i = x(t_i), from x(t_0) = t_0 z, in `merge` steps between two of the times

    Args:
        players: the teacher answers what the solver asks.
        batch: rows whose column x has the shape of a datum.
        solver: a solver part.
        times: falling times of the student, from 1 or just below.
        merge: M + 1, where M times lie between two of the student's.
        analytic: the student's first step needs no net (see `analytic_euler`), and its path begins after it.

    Returns:
        The batch with the start in x, the teacher's states in `path` (B, n + 1, ...) and the times in `grid`.

    Raises:
        BadValue: times that do not fall, fewer than one step, or an analytic step from t = 1.

    Source: Zhou et al., arXiv:2409.19681, the trajectories of the teacher, as in its code.
    """
    if len(times) < 2 or any(s >= t for t, s in pairwise(times)):
        raise BadValue(f"a path falls over two times or more, got {times}")
    z = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
    grid = torch.tensor(times, dtype=z.dtype, device=z.device).expand(batch.size, -1)
    fine = batch.with_(x=times[0] * z, grid=refined(grid, merge))
    path = solver(players.renamed({"student": "teacher"}), fine)[::merge]  # type: ignore[operator]
    made = batch.with_(x=times[0] * z, grid=grid, path=torch.stack(path, 1))
    if not analytic:
        return made
    return made.with_(x=_analytic(made), grid=grid[:, 1:], path=made.path[:, 1:])


def _analytic(batch: Batch) -> Tensor:
    """The state after the first step, without a net."""
    x, t, s = batch.x, batch.grid[:, 0], batch.grid[:, 1]
    if bool((t >= 1).any()):
        raise BadValue("an analytic first step starts below t = 1, as karras(n) does")
    e = x / like(((1 - t).square() + t.square()).sqrt(), x)
    return x + like((s - t) / (1 - t), x) * (e - x)  # e - x0 = (e - x) / (1 - t)


def _steps(players: Players, batch: Batch, first: int, last: int) -> list[Tensor]:
    """The student's steps from its own states; no gradient passes from one to the one before."""
    x, out = batch.x, []
    for i, (t, s) in enumerate(pairwise(batch.grid.T)):
        if i > last:
            break
        with torch.set_grad_enabled(torch.is_grad_enabled() and i >= first):
            end = x + like(s - t, x) * players.student(batch.with_(x=x, t=t), "velocity")
        x = end.detach()
        out.append(end)
    return out[first:]


def _apart(end: Tensor, truth: Tensor) -> Tensor:
    return (end - truth).abs().flatten(1).sum(1)


@part
def one_step(players: Players, batch: Batch, *, step: int = 0, own: bool = True) -> Tensor:
    """The error of one step from the student's own state.

    |x_i + (t_{i+1} - t_i) v(x_i, t_i) - y_{i+1}|_1, x_i the student's own, held fixed

    Args:
        players: the student answers "velocity" on columns x, t.
        batch: the start in x, times in `grid`, the teacher's states in `path`.
        step: i, from 0.
        own: whether the step starts from the student's state; else from the teacher's.

    Returns:
        (B,).

    Raises:
        BadValue: a step that the path does not have.

    Source: Zhou et al., arXiv:2409.19681, the loss of a step, as in its code.
    """
    if not 0 <= step < batch.grid.shape[1] - 1:
        raise BadValue(f"the path has steps 0 to {batch.grid.shape[1] - 2}, got step = {step}")
    if own:
        return _apart(_steps(players, batch, step, step)[0], batch.path[:, step + 1])
    here = batch.with_(x=batch.path[:, step], grid=batch.grid[:, step : step + 2])
    return _apart(_steps(players, here, 0, 0)[0], batch.path[:, step + 1])


@part
def all_steps(players: Players, batch: Batch) -> Tensor:
    """The errors of all steps from the student's own states, added: one update where `one_step` makes several.

    sum_i |x_i + (t_{i+1} - t_i) v(x_i, t_i) - y_{i+1}|_1, x_i the student's own, held fixed

    Args:
        players: the student answers "velocity" on columns x, t.
        batch: the start in x, times in `grid`, the teacher's states in `path`.

    Returns:
        (B,).

    Source: Zhou et al., arXiv:2409.19681, the loss of a step, summed.
    """
    ends = _steps(players, batch, 0, batch.grid.shape[1])
    return torch.stack([_apart(end, batch.path[:, i + 1]) for i, end in enumerate(ends)]).sum(0)


@part
def analytic_euler(players: Players, batch: Batch) -> list[Tensor]:
    """Straight steps of which the first needs no net: so near to noise, the noise is the state but for its scale.

    e = x / sqrt((1 - t)^2 + t^2) in the first step, for data of unit variance;  x_s = x + (s - t) (e - x0),
    x0 = (x - t e) / (1 - t)

    Args:
        players: the student answers "velocity" on columns x, t.
        batch: the start in x, the times (B, n + 1) in `grid`, the first below 1.

    Returns:
        n + 1 states, (B, ...) each.

    Raises:
        BadValue: a first time of 1, at which nothing is left to be known of the datum.

    Source: Dockhorn et al., arXiv:2210.05475, the analytical first step, on this path.
    """
    first = _analytic(batch)
    rest = _steps(players, batch.with_(x=first, grid=batch.grid[:, 1:]), 0, batch.grid.shape[1])
    return [batch.x, first, *rest]
