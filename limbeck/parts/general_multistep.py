"""A multistep solver whose every number learns: times, the times that the net is told, and what is added to each step.

All begin at zero, where the solver is DPM-Solver++ with memory; the numbers are what theory leaves over.

Shapes: B rows, n steps, P past states and answers; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.plan import Planned, planned_start
from limbeck.parts.solver import even, exponential_step, log_ratio
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = ["General", "end_regression", "general", "generalised"]

FIVE = even(5)


class General(Planned):
    """The numbers of a general multistep solver.

    Args:
        times: n + 1 of them, from which it starts; the first and the last stay.
        memory: P, past states and answers that are added to a step; 0 for the theory alone.
        shifts: whether the net may be told another time than that of the state.

    Example:
        >>> made = General((1.0, 0.5, 0.0), 2, True)({"x": torch.zeros(1, 3)}, frozenset({"grid"}))
        >>> made["grid"].detach(), made["outputs"].shape
        (tensor([[1.0000, 0.5000, 0.0000]]), torch.Size([1, 2, 2]))
    """

    ends: Tensor

    def __init__(self, times: tuple[float, ...], memory: int, shifts: bool) -> None:
        super().__init__()
        left = torch.tensor(times) - times[-1]
        n = len(times) - 1
        self.register_buffer("ends", torch.tensor((times[0], times[-1])))
        self.breaks = nn.Parameter((1 - left[1:-1] / left[:-2]).logit())
        self.shift = nn.Parameter(torch.zeros(n)) if shifts else None
        self.states, self.outputs = (nn.Parameter(torch.zeros(n, memory)) if memory else None for _ in range(2))

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "grid" (B, n + 1), "asked" (B, n), "states", "outputs" (B, n, P) on x (B, ...); "x0" of noise on t."""
        start, end = self.ends[:1], self.ends[1:]
        left = torch.cumprod(1 - self.breaks.sigmoid(), 0)
        grid = torch.cat((start, end + (start - end) * left, end))
        asked = grid[:-1] if self.shift is None else (grid[:-1] + self.shift).clamp(0, 1)
        none = torch.zeros(len(grid) - 1, 0, dtype=grid.dtype, device=grid.device)
        states, outputs = (none if p is None else p for p in (self.states, self.outputs))
        found = {"grid": grid, "asked": asked, "states": states, "outputs": outputs}
        out = {name: v.expand(len(batch["x"]), *v.shape) for name, v in found.items()}
        return out | ({"x0": self.end(batch)} if "x0" in want else {})


@part
def generalised(players: Players, batch: Batch, *, order: int = 3) -> list[Tensor]:
    """DPM-Solver++ with memory, and a learned sum of what it has seen added to each step; one evaluation a step.

    x_i = step(x_{i-1}; D_{i-1}, D_{i-2}, ...) + sum_k A_ik x_{i-k} + sum_k C_ik D_{i-k},  D_i = x0(x_i, t_i + d_i)

    Args:
        players: `solver` answers "asked", "states", "outputs"; the student "x0" on columns x, t.
        batch: the start in x, the times (B, n + 1) in `grid`.
        order: of the step that theory gives: 1, 2 or 3.

    Returns:
        n + 1 states, (B, ...) each.

    Raises:
        UnknownName: there is no player `solver`.
        BadValue: another order.

    Source: Oganov et al., arXiv:2510.17699, the generalised solver; the step: Lu et al., arXiv:2211.01095.
    """
    if order not in (1, 2, 3):
        raise BadValue(f"generalised has order 1, 2 or 3, got {order}")
    asked, kept, added = players.solver(batch.with_(), "asked", "states", "outputs")
    states, answers, ratios = [batch.x], list[Tensor](), list[Tensor]()
    for i, (t, s) in enumerate(pairwise(batch.grid.to(batch.x.dtype).T)):
        x = states[0]
        answers.insert(0, players.student(batch.with_(x=x, t=asked[:, i].to(x.dtype)), "x0"))
        ratios.insert(0, log_ratio(t))
        step = exponential_step(x, list(zip(answers, ratios, strict=True))[:order], t, s)
        for weights, past in ((kept, states), (added, answers)):
            for k, before in enumerate(past[: weights.shape[2]]):
                step = step + like(weights[:, i, k], before) * before
        states.insert(0, step)
    return states[::-1]


THREE = generalised()


@part
def general(
    players: Players,
    batch: Batch,
    *,
    times: tuple[float, ...] = FIVE,
    memory: int = 5,
    shifts: bool = True,
    solver: Expr = THREE,
) -> General:
    """Build the numbers of a general multistep solver.

    t_i = t_n + (t_0 - t_n) prod_{j <= i} (1 - sigmoid(b_j)), and zeros

    Args:
        players: the teacher, whose field it solves; not asked.
        batch: some rows of data, for the device.
        times: falling times from which it starts; the first and the last stay.
        memory: past states and answers that are added to a step; 0 for the theory alone.
        shifts: whether the net may be told another time than that of the state.
        solver: the solver part with which it is run.

    Returns:
        The module.

    Raises:
        BadValue: fewer than two steps, times that do not fall, or less than no memory.

    Source: Oganov et al., arXiv:2510.17699, equation 14 for the times.
    """
    if len(times) < 3 or any(s >= t for t, s in pairwise(times)) or memory < 0:
        raise BadValue(f"a general solver needs falling times of two steps or more, memory >= 0, got {times}, {memory}")
    return General(times, memory, shifts).to(batch.device).of(players, solver)


@part
def end_regression(players: Players, batch: Batch, *, solver: Expr = THREE) -> Tensor:
    """The distance between where a solver that learns and where the teacher's carries the same noise.

    |x_S - x_T|_1 / D

    Args:
        players: those that the solver asks, and `solver`.
        batch: noise in x, where it should end in `end`.
        solver: a solver part.

    Returns:
        (B,).

    Raises:
        UnknownName: the batch has no column `end`.

    Source: Oganov et al., arXiv:2510.17699, the distillation loss (in latents).
    """
    end = solver(players, planned_start(players, batch, batch.x))[-1]  # type: ignore[operator]
    return (end - batch.end).abs().flatten(1).mean(1)
