"""Discrete consistency: two neighbouring points of a trajectory lead to the same place.

A batch holds the two: `x` at level `t` and `near` at level `r`, one step nearer to the data; `far` at level `q`, where
it is wanted, is one step nearer to the noise (see `limbeck.parts.neighbours`). Where they lead is the data, or the
level `s` of the batch. The student answers at the first point; at the second, without gradient, a player `target`: a
moving average of the student, or by `.on(target="student")` the student itself.

The distance between two answers is a part `(difference)` (see `limbeck.parts.distance`). Levels are those of the
rectified-flow path, t = 0 the data.

Shapes: B rows; a datum has any shape, d coordinates.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.distance import pseudo_huber
from limbeck.parts.flowmap import jump
from limbeck.parts.states import like
from limbeck.players import Player, Players

__all__ = ["consistency", "gap_weight", "reached", "reverse_consistency"]

HUBER = pseudo_huber()


def reached(player: Player, batch: Batch, told: bool = True) -> Tensor:
    """Where a player says that the trajectories through the states lead.

    G(x, t, s) = x + (s - t) u(x, t, s), and s = 0 where the batch has none

    Args:
        player: answers "velocity" on columns x, t, and s if it is told.
        batch: states in x at levels t, with or without levels to reach in s.
        told: whether the player sees s; one that does not answers by one belief of the datum for all s.

    Returns:
        (B, ...).

    Source: Kim et al., arXiv:2310.02279, the decoder; untold: Zheng et al., arXiv:2402.19159, for one step.
    """
    s = batch.get("s", torch.zeros_like(batch.t))
    return jump(batch.x, batch.t, s, player(batch if told else batch.without("s"), "velocity"))


@part
def consistency(
    players: Players, batch: Batch, *, distance: Expr = HUBER, told: bool = True, truncation: float = 0.0
) -> Tensor:
    """From a state and from its neighbour nearer to the data, the student must come to the same place.

    d(G_student(x_t, t, s) - sg[G_target(x_r, r, s)]);  x0 in place of the target where r < truncation

    Args:
        players: student and target answer "velocity" on columns x, t (and s, if it is there and told).
        batch: x and t, `near` and r; s where trajectories end above the data; the datum in `real` for a truncation.
        distance: a distance part.
        told: whether the nets see s.
        truncation: the level below which the datum itself is the target.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `target`, or no column `near` or r.

    Example:
        >>> from types import SimpleNamespace
        >>> from limbeck.parts.distance import squared
        >>> half = lambda batch, want: batch.x / 2  # where t = 1, it leads to x / 2
        >>> batch = Batch({"x": torch.ones(1, 2), "t": torch.ones(1), "near": torch.ones(1, 2), "r": torch.zeros(1)})
        >>> consistency(distance=squared())(SimpleNamespace(student=half, target=half), batch)
        tensor([0.5000])

    Source: Song et al., arXiv:2303.01469, algorithms 2 and 3; with s: Kim et al., arXiv:2310.02279.
    """
    here = reached(players.student, batch, told)
    with torch.no_grad():
        there = reached(players.target, batch.with_(x=batch.near, t=batch.r), told)
        if truncation:
            there = torch.where(like(batch.r, there) < truncation, batch.real, there)
    return distance(here - there)  # type: ignore[operator,no-any-return]


@part
def reverse_consistency(players: Players, batch: Batch, *, distance: Expr = HUBER, told: bool = True) -> Tensor:
    """From a state and from its neighbour nearer to the noise, the student must come to the same place.

    d(G_student(x_t, t, s) - sg[G_target(x_q, q, s)]), q > t

    Args:
        players: student and target answer "velocity" on columns x, t (and s, if it is there and told).
        batch: x and t, `far` and q; s where trajectories end above the data.
        distance: a distance part.
        told: whether the nets see s.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `target`, or no column `far` or q.

    Source: Dao et al., arXiv:2412.16906, bidirectional consistency.
    """
    turned = replace(batch.with_(near=batch.far, r=batch.q), memo=batch.memo)  # the student's forward is shared
    return consistency.fn(players, turned, distance=distance, told=told)  # type: ignore[no-any-return]


@part
def gap_weight(players: Players, batch: Batch) -> Tensor:
    """Weigh a pair by how near its points are, so that all pairs say as much of the slope.

    1 / (sigma_t - sigma_r), sigma = t / (1 - t)

    Args:
        players: not asked.
        batch: the levels t and r, of which t lies above r and below 1.

    Returns:
        (B,).

    Example:
        >>> gap_weight()(None, Batch({"t": torch.tensor([0.5]), "r": torch.tensor([0.0])}))
        tensor([1.])

    Source: Song and Dhariwal, arXiv:2310.14189, the weight of levels.
    """
    return 1 / (batch.t / (1 - batch.t) - batch.r / (1 - batch.r))
