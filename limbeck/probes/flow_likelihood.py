"""How likely a flow makes data: the change of density along its trajectories, exactly or by random directions.

Shapes: N rows of the test split, D coordinates of a datum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.jvp import jvp
from limbeck.parts.solver import even, midpoint, solve
from limbeck.players import Player, Players
from limbeck.probes.distribution import sampled
from limbeck.roles import frozen

__all__ = ["exact_divergence", "flow_log_density", "flow_nll", "probed_divergence"]

Field = Callable[[Tensor], Tensor]


@part
def exact_divergence(players: Players, batch: Batch) -> tuple[Tensor, Tensor]:
    """The velocity and its divergence, by a derivative for each coordinate.

    div v = sum_d dv_d / dx_d

    Args:
        players: the student answers "velocity" on columns x, t.
        batch: states; D passes are made.

    Returns:
        The velocity (B, ...) and its divergence (B,).

    Raises:
        BadValue: no way to the derivative works for the student's net (see `limbeck.parts.jvp`).
    """
    x = batch.x
    ways = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).view(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
    slopes = [_slope(players, batch, way) for way in ways]
    return slopes[0][0], torch.stack([_inner(dv, way) for (_, dv), way in zip(slopes, ways, strict=True)]).sum(0)


@part
def probed_divergence(players: Players, batch: Batch, *, directions: int = 1) -> tuple[Tensor, Tensor]:
    """The velocity and an estimate of its divergence without bias, by a few random directions.

    div v = E r' (dv / dx) r,  r of +1 and -1, the same all along a trajectory

    Args:
        players: the student answers "velocity" on columns x, t.
        batch: states.
        directions: how many are averaged.

    Returns:
        The velocity (B, ...) and the estimate (B,).

    Raises:
        BadValue: no way to the derivative works for the student's net (see `limbeck.parts.jvp`).

    Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990; Grathwohl et al.,
        arXiv:1810.01367, equation 8.
    """
    shape = (directions, *batch.x.shape[1:])
    ways = 2 * batch.rng.integers("direction", 2, *shape).to(batch.x.dtype) - 1
    slopes = [_slope(players, batch, way) for way in ways.unbind(1)]
    found = torch.stack([_inner(dv, way) for (_, dv), way in zip(slopes, ways.unbind(1), strict=True)])
    return slopes[0][0], found.mean(0)


def _slope(players: Players, batch: Batch, way: Tensor) -> tuple[Tensor, Tensor]:
    """The velocity, and its derivative along a direction."""
    return jvp(lambda x: players.student(batch.with_(x=x), "velocity"), (batch.x,), (way.contiguous(),))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


EXACT, MIDPOINT, UP = exact_divergence(), midpoint(), even(32, 0.0, 1.0)


def flow_log_density(player: Player, batch: Batch, solver: Expr, times: tuple[float, ...], divergence: Expr) -> Tensor:
    """The logarithm of the density that a flow gives to data.

    log p(x_0) = log N(x_1; 0, I) + int_0^1 div v(x_t, t) dt, along dx/dt = v(x, t) from x_0

    Args:
        player: answers "velocity" on columns x, t.
        batch: data in x.
        solver: a solver part that asks for "velocity"; it carries state and density together.
        times: rising times from 0 to 1.
        divergence: a part that gives velocity and divergence.

    Returns:
        (B,), in nats.

    Source: Chen et al., "Neural Ordinary Differential Equations", arXiv:1806.07366, theorem 1.
    """
    shape, own = batch.x.shape, Players({"student": player})

    def answer(joint: Batch, want: frozenset[str]) -> dict[str, Tensor]:
        x = joint.x[:, :-1].view(shape)
        v, spread = divergence(own, batch.with_(x=x, t=joint.t))  # type: ignore[operator]
        return {"velocity": torch.cat((v.flatten(1), spread[:, None]), 1)}

    start = torch.nn.functional.pad(batch.x.flatten(1), (0, 1))
    end = solve(Player("joint", frozen(), answer=answer), batch, solver, start, times)[-1]
    x1, gained = end[:, :-1], end[:, -1]
    return gained - 0.5 * (x1.square() + math.log(2 * math.pi)).sum(1)


@part
def flow_nll(
    players: Players,
    data: Mapping[str, Source],
    *,
    solver: Expr = MIDPOINT,
    times: tuple[float, ...] = UP,
    divergence: Expr = EXACT,
    rows: int = 2_000,
) -> float:
    """The mean negative log-likelihood of data under the student's flow.

    -mean log p(x_0),  log p(x_0) = log N(x_1; 0, I) + int_0^1 div v(x_t, t) dt

    Args:
        players: the student answers "velocity" on columns x, t.
        data: the test split has a column x.
        solver: a solver part that asks for "velocity".
        times: rising times from 0 to 1.
        divergence: `exact_divergence`, or `probed_divergence` where data have many coordinates.
        rows: how many data, at most.

    Returns:
        In nats; divided by D ln 2, in bits for each coordinate.

    Raises:
        BadValue: no way to the derivative works for the student's net (see `limbeck.parts.jvp`).

    Source: Lipman et al., arXiv:2210.02747, appendix C.
    """

    def density(players: Players, batch: Batch) -> Tensor:
        return flow_log_density(players.student, batch, solver, times, divergence)[:, None]

    found, _ = sampled(players, data, density, rows)  # type: ignore[arg-type]
    return -float(found.mean())
