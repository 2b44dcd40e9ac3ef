"""A solver whose every step leans away from what the field said before, by an amount found in closed form.

d^_t = d_t + l_t (d_t - d_before)

takes the place of the field's answer d_t (noise, data or velocity) in any solver of one evaluation a step. What a step
ends in is affine in its l, so the l that brings it nearest to the trajectory of a finer solver is a quotient of two
inner products; nothing is trained.

Shapes: B rows, n steps; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.plan import Planned, planned_start, refined
from limbeck.parts.solver import dpm_multistep, even
from limbeck.parts.states import like
from limbeck.players import Player, Players
from limbeck.roles import frozen

__all__ = ["Lean", "fit_lean", "lean", "leaning"]

DDIM, TEN = dpm_multistep(order=1), even(10)


class Lean(Planned):
    """The times of a solver and how far each of its steps leans; not at all at first.

    Args:
        times: n + 1 of them.

    Example:
        >>> found = Lean((1.0, 0.5, 0.0))({"x": torch.zeros(2, 3)}, frozenset({"grid", "lean"}))
        >>> found["grid"].shape, found["lean"].tolist()
        (torch.Size([2, 3]), [[0.0, 0.0], [0.0, 0.0]])
    """

    times: Tensor

    def __init__(self, times: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("times", torch.tensor(times))
        self.lean = nn.Parameter(torch.zeros(len(times) - 1))

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "grid" (B, n + 1), "lean" (B, n) on a column x (B, ...); "x0" of pure noise, also on t (B,)."""
        rows = len(batch["x"])
        out = {"grid": self.times.expand(rows, -1), "lean": self.lean.expand(rows, -1)}
        return out | ({"x0": self.end(batch)} if "x0" in want else {})


@part
def leaning(players: Players, batch: Batch, *, base: Expr = DDIM) -> list[Tensor]:
    """A solver on answers that lean away from those of the step before.

    d^_i = d_i + l_i (d_i - d_{i-1}), the first step as it is

    Args:
        players: `solver` answers "lean", one number a step; the student what the base asks.
        batch: the start in x, the times (B, n + 1) in `grid`.
        base: a solver part of one evaluation a step, such as `euler()` or `dpm_multistep()`.

    Returns:
        n + 1 states, (B, ...) each.

    Raises:
        UnknownName: there is no player `solver`.
        BadValue: the base asks more often than there are steps.

    Source: Kim et al., arXiv:2309.16421.
    """
    amounts, calls = players.solver(batch, "lean"), count()
    before: dict[str, Tensor] = {}

    def answer(asked: Batch, want: frozenset[str]) -> dict[str, Any]:
        step = next(calls)
        if step >= amounts.shape[1]:
            raise BadValue(f"leaning takes a base of one evaluation a step; {base!r} asks more often")
        fresh = {w: players.student(asked, w) for w in want}
        out = {w: d + like(amounts[:, step], d) * (d - before.get(w, d)) for w, d in fresh.items()}
        before.update(fresh)
        return out

    leant = Player("leaning", frozen(), answer=answer)
    return base(Players({"student": leant}), batch)  # type: ignore[no-any-return, operator]


LEANING = leaning()


@part
def lean(players: Players, batch: Batch, *, times: tuple[float, ...] = TEN, solver: Expr = LEANING) -> Lean:
    """Build the solver whose steps will lean.

    d^_i = d_i + l_i (d_i - d_{i-1}), l = 0

    Args:
        players: the teacher, whose field it solves; not asked.
        batch: some rows of data, for the device.
        times: falling times, from 1 or just below.
        solver: the solver part with which it is run.

    Returns:
        The module.

    Raises:
        BadValue: fewer than two times.

    Source: Kim et al., arXiv:2309.16421.
    """
    if len(times) < 2 or any(s >= t for t, s in pairwise(times)):
        raise BadValue(f"a solver goes over falling times, two or more, got {times}")
    return Lean(times).to(batch.device).of(players, solver)


@part
def fit_lean(
    players: Players, batch: Batch, state: dict[str, Tensor], *, base: Expr = DDIM, merge: int = 10
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Find how far each step leans, one after the other, from the states that the steps so far lead to.

    l_i = <q, x* - p> / <q, q> over the rows, where the step ends in p + l q, and x* is where the base with `merge`
    steps for each is at that time

    Args:
        players: `solver`, which is changed, and the student, whose field it is.
        batch: rows, each of which gives one trajectory.
        state: kept as it is.
        base: a solver part of one evaluation a step.
        merge: C, the steps that one step is to do the work of.

    Returns:
        The state, and the error that is left at the end, root mean square over trajectories.

    Raises:
        BadValue: fewer than one step for each, or a base that asks more often than once a step.

    Source: Kim et al., arXiv:2309.16421, the fit of the parameters.
    """
    start, amounts = planned_start(players, batch), players.solver.lean
    with torch.no_grad():
        fine = start.with_(grid=refined(start.grid, merge))
        truth = base(players, fine)[::merge]  # type: ignore[operator]
        for i in range(len(amounts)):
            amounts[i] = 0.0
            here = leaning(base=base)(players, start.with_())[i + 1]
            amounts[i] = 1.0
            along = leaning(base=base)(players, start.with_())[i + 1] - here
            size = along.square().sum()
            amounts[i] = (along * (truth[i + 1] - here)).sum() / size if size > 0 else 0.0
        left = leaning(base=base)(players, start.with_())[-1] - truth[-1]
    return state, {"error": float(left.square().flatten(1).sum(1).mean().sqrt())}
