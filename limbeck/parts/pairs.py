"""Pairs of noise and datum that a field joins, and what a straight flow or a one-step generator learns from them.

A *make* stage writes the pairs: column `e` holds the noise, `x` the datum at the other end of the teacher's trajectory,
and all other columns (a class `y`) stay. Where the pairs are joined by straight lines x_t = (1 - t) x + t e, the flow
that learns them bends less than the teacher's and can be solved in fewer steps.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.solver import EULER, even, solve
from limbeck.parts.states import like, uniform_levels
from limbeck.players import Players
from limbeck.rng import Rng

__all__ = [
    "ALL",
    "end_matching",
    "independent_pairs",
    "inverted_pairs",
    "pair_ends",
    "sampled_pairs",
    "straight_states",
]

ALL = uniform_levels(low=0.0, high=1.0)
DOWN, UP = even(25), even(25, 1e-3, 1.0)


# -- making them ------------------------------------------------------------------------------------------------------


@part
def independent_pairs(players: Players, batch: Batch) -> Batch:
    """Join each datum with any noise: the pairs from which the first rectified flow is learnt.

    e ~ N(0, I)

    Args:
        players: not asked.
        batch: rows whose column x is a datum.

    Returns:
        The rows with noise in `e`.

    Example:
        >>> independent_pairs()(None, Batch({"x": torch.zeros(2, 3)})).e.shape
        torch.Size([2, 3])

    Source: Liu et al., arXiv:2209.03003, before any reflow.
    """
    return batch.with_(e=batch.rng.normal("e", *batch.x.shape[1:]).to(batch.x.dtype))


@part
def sampled_pairs(
    players: Players, batch: Batch, *, solver: Expr = EULER, times: tuple[float, ...] = DOWN, copies: int = 1
) -> Batch:
    """Draw noise and let the teacher carry it to a datum: a part of a *make* stage.

    e ~ N(0, I),  x = x(t_n) from x(t_0) = t_0 e

    Args:
        players: the teacher answers what the solver asks; `.on(teacher="student")` asks the student.
        batch: rows whose column x has the shape of a datum; their other columns go along.
        solver: a solver part.
        times: falling times, from 1 or just below.
        copies: pairs made of each row.

    Returns:
        B x copies rows, the noise in `e` and the teacher's datum in x; the row they come from in `index` stays.

    Raises:
        BadValue: fewer than one copy.

    Source: Liu et al., arXiv:2209.03003, reflow.
    """
    if copies < 1:
        raise BadValue(f"a row gives one pair or more, got copies = {copies}")
    made: list[Batch] = []
    for k in range(copies):
        e = batch.rng.fold("pair", k).normal("e", *batch.x.shape[1:]).to(batch.x.dtype)
        x = solve(players.teacher, batch, solver, times[0] * e, times)[-1]
        made.append(batch.with_(e=e, x=x))
    if copies == 1:
        return made[0]
    rows = torch.cat([batch.rng.rows * copies + k for k in range(copies)])
    rng = Rng(batch.rng.key, rows)
    return Batch({name: _stacked([b[name] for b in made]) for name in made[0]}, rng=rng, at=batch.at)


def _stacked(columns: list[Tensor | list[object]]) -> Tensor | list[object]:
    """One column after the other."""
    if isinstance(columns[0], Tensor):
        return torch.cat(columns)  # type: ignore[arg-type]
    return [value for column in columns for value in column]


@part
def inverted_pairs(players: Players, batch: Batch, *, solver: Expr = EULER, times: tuple[float, ...] = UP) -> Batch:
    """Let the teacher carry real data to the noise that it takes them for: a part of a *make* stage.

    e = x(t_n) / t_n, from x(t_0) = (1 - t_0) x, t_0 just above 0: the noise there is neglected

    Args:
        players: the teacher answers what the solver asks.
        batch: rows whose column x is a datum.
        solver: a solver part.
        times: rising times, to 1 or just below.

    Returns:
        The rows with that noise in `e`; x stays.

    Raises:
        BadValue: times that do not rise.

    Source: Lee et al., arXiv:2405.20320, pairs by inversion.
    """
    if times[0] >= times[-1]:
        raise BadValue(f"inversion goes from the datum up to the noise, got times from {times[0]} to {times[-1]}")
    end = solve(players.teacher, batch, solver, (1 - times[0]) * batch.x, times)[-1]
    return batch.with_(e=end / times[-1])


# -- learning from them -----------------------------------------------------------------------------------------------


@part
def straight_states(players: Players, batch: Batch, *, levels: Expr = ALL) -> Batch:
    """Points on the straight lines between the ends of pairs, and the slope there.

    x_t = (1 - t) x + t e;  velocity = e - x

    Args:
        players: the players, for levels that depend on them.
        batch: pairs, columns e and x.
        levels: a level part, which gives t (B,).

    Returns:
        The batch with the point in x, its level in t, the slope in `velocity`, and the datum in `real`.

    Raises:
        UnknownName: the rows are no pairs: there is no column e.

    Example:
        >>> pair = Batch({"x": torch.zeros(1, 2), "e": torch.ones(1, 2)})
        >>> there = straight_states(levels=uniform_levels(low=0.25, high=0.25))(None, pair)
        >>> there.x, there.velocity
        (tensor([[0.2500, 0.2500]]), tensor([[1., 1.]]))

    Source: Liu et al., arXiv:2209.03003, with time reversed.
    """
    x0, e = batch.x, batch.e
    t = levels(players, batch).to(x0.dtype)  # type: ignore[operator]
    return batch.with_(x=(1 - like(t, x0)) * x0 + like(t, x0) * e, t=t, velocity=e - x0, real=x0)


@part
def pair_ends(players: Players, batch: Batch) -> Batch:
    """The noise of each pair, as a one-step generator meets it.

    x = e, t = 1

    Args:
        players: not asked.
        batch: pairs, columns e and x.

    Returns:
        The batch with the noise in x, the level 1 in t, and the datum in `real`.

    Raises:
        UnknownName: the rows are no pairs: there is no column e.

    Example:
        >>> ends = pair_ends()(None, Batch({"x": torch.zeros(1, 2), "e": torch.ones(1, 2)}))
        >>> ends.x, ends.t, ends.real
        (tensor([[1., 1.]]), tensor([1.]), tensor([[0., 0.]]))
    """
    return batch.with_(x=batch.e, t=torch.ones(batch.size, dtype=batch.x.dtype, device=batch.device), real=batch.x)


@part
def end_matching(players: Players, batch: Batch) -> Tensor:
    """The student says at once what the teacher came to: distillation of pairs.

    |x0_student(x, t) - x_real|^2

    Args:
        players: the student answers "x0".
        batch: states, with the datum that belongs to each in `real`; of `pair_ends`, or of `straight_states`.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no column `real`.

    Source: Luhman and Luhman, arXiv:2101.02388; Liu et al., arXiv:2309.06380, with the square for its distance.
    """
    return (players.student(batch, "x0") - batch.real).square().flatten(1).sum(1)
