"""How straight a flow runs and how far it carries: what reflow improves.

Shapes: N trajectories of the first rows of the test split, each from the noise of its row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import part
from limbeck.parts.solver import EULER, even, solve
from limbeck.players import Players
from limbeck.probes.distribution import sampled

__all__ = ["curvature", "transport_cost"]


def _trajectories(players: Players, data: Mapping[str, Source], steps: int, rows: int) -> Tensor:
    """The states of straight steps at even times, (N, steps + 1, D)."""

    def draw(players: Players, batch: Batch) -> Tensor:
        z = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
        return torch.stack(solve(players.student, batch, EULER, z, even(steps)), 1).flatten(2)

    flat, _ = sampled(players, data, draw, rows)  # type: ignore[arg-type]
    return flat.view(len(flat), steps + 1, -1)


@part
def curvature(players: Players, data: Mapping[str, Source], *, steps: int = 32, rows: int = 1_000) -> float:
    """How far the velocity along a trajectory is from the straight way between its ends; 0 where one step is exact.

    mean int_0^1 |v(x_t, t) - (x_1 - x_0)|^2 dt

    Args:
        players: the student answers "velocity" on columns x, t; `.on(student="teacher")` measures the teacher.
        data: the test split has a column x.
        steps: straight steps of a trajectory.
        rows: how many trajectories, at most.

    Returns:
        In squared units of the data.

    Raises:
        UnknownName: the test split has no column x.

    Source: Liu et al., arXiv:2209.03003, the measure of straightness.
    """
    x = _trajectories(players, data, steps, rows)
    slopes = -steps * (x[:, 1:] - x[:, :-1])
    return float((slopes - (x[:, :1] - x[:, -1:])).square().sum(2).mean())


@part
def transport_cost(players: Players, data: Mapping[str, Source], *, steps: int = 32, rows: int = 1_000) -> float:
    """How far the flow carries noise on its way to data.

    mean |x_1 - x_0|^2

    Args:
        players: the student answers "velocity" on columns x, t; `.on(student="teacher")` measures the teacher.
        data: the test split has a column x.
        steps: straight steps of a trajectory.
        rows: how many trajectories, at most.

    Returns:
        In squared units of the data; reflow never raises it where flows are exact.

    Raises:
        UnknownName: the test split has no column x.

    Source: Liu et al., arXiv:2209.03003, for the square.
    """
    x = _trajectories(players, data, steps, rows)
    return float((x[:, 0] - x[:, -1]).square().sum(1).mean())
