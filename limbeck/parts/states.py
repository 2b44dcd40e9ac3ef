"""States of fields: noise levels, noised data, and what a few-step student meets when it runs by itself.

All fields are asked on one path, rectified flow: x_t = (1 - t) x0 + t e, with t = 0 the data and t = 1 the noise, x in
column `x` and t in column `t`. A net of another path is converted by its adapter; a posterior mean of x0 is the same
on every path once x is rescaled. The datum of a row moves to the column `real` when `x` becomes a state.

Shapes: B rows; a datum has any shape (vectors, images, clips).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.players import Player, Players

__all__ = [
    "backward_simulated",
    "few_step",
    "few_step_states",
    "karras_levels",
    "like",
    "noise_states",
    "noised",
    "noised_states",
    "uniform_levels",
]


def like(t: Tensor, x: Tensor) -> Tensor:
    """Give one number a row the trailing axes of x, so that they multiply.

    Args:
        t: (B,).
        x: (B, ...).

    Returns:
        (B, 1, ...), in the type of x.

    Example:
        >>> like(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 3)).shape
        torch.Size([2, 1, 1])
    """
    return t.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def noised(players: Players, batch: Batch, x0: Tensor, levels: Expr, name: str) -> Batch:
    """Carry data to random levels.

    x_t = (1 - t) x0 + t e

    Args:
        players: the players, for levels that depend on them.
        batch: the batch whose other columns (a class `y`) and random streams go along.
        x0: (B, ...) data or samples; gradients flow through them.
        levels: a level part, which gives t (B,).
        name: the name of these draws; other names give independent ones.

    Returns:
        The batch with x = x_t and its level t.

    Example:
        >>> batch = Batch({"x": torch.zeros(4, 2)})
        >>> there = noised(None, batch, batch.x, uniform_levels(low=0.5, high=0.5), "noise")
        >>> there.t, there.x.shape
        (tensor([0.5000, 0.5000, 0.5000, 0.5000]), torch.Size([4, 2]))

    Source: Liu et al., "Flow Straight and Fast", arXiv:2209.03003, with time reversed.
    """
    rng = batch.rng.fold(name)
    t = levels(players, replace(batch, rng=rng, memo={})).to(x0.dtype)  # type: ignore[operator]
    noise = rng.normal("noise", *x0.shape[1:]).to(x0.dtype)
    return batch.with_(x=(1 - like(t, x0)) * x0 + like(t, x0) * noise, t=t)


@part
def uniform_levels(players: Players, batch: Batch, *, low: float = 0.02, high: float = 0.98) -> Tensor:
    """Levels spread evenly over rectified-flow time.

    t ~ U(low, high)

    Args:
        players: not asked.
        batch: the rows.
        low: the lowest level.
        high: the highest level.

    Returns:
        (B,).

    Example:
        >>> t = uniform_levels(low=0.2, high=0.4)(None, Batch({"x": torch.zeros(99, 1)}))
        >>> bool(((t >= 0.2) & (t <= 0.4)).all())
        True
    """
    return low + (high - low) * batch.rng.uniform("level").view(-1)


@part
def karras_levels(
    players: Players,
    batch: Batch,
    *,
    low: float = 0.02,
    high: float = 0.98,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Tensor:
    """Levels spread evenly over the positions of the Karras ladder.

    sigma = (smin^(1/rho) + u (smax^(1/rho) - smin^(1/rho)))^rho, u ~ U(low, high);  t = sigma / (1 + sigma)

    Args:
        players: not asked.
        batch: the rows.
        low: the lowest position on the ladder, of [0, 1].
        high: the highest position.
        sigma_min: the noise at position 0, in units of the data.
        sigma_max: the noise at position 1.
        rho: how far the ladder crowds towards low noise.

    Returns:
        (B,), t of the rectified-flow path at the same ratio of noise to signal.

    Example:
        >>> karras_levels(low=1.0, high=1.0, sigma_max=9.0)(None, Batch({"x": torch.zeros(1, 1)}))
        tensor([0.9000])

    Source: Karras et al., arXiv:2206.00364, equation 5.
    """
    u = low + (high - low) * batch.rng.uniform("level").view(-1)
    bottom, top = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigma = (bottom + u * (top - bottom)) ** rho
    return sigma / (1 + sigma)


def few_step_states(player: Player, batch: Batch, times: Sequence[float]) -> list[Tensor]:
    """Run a few-step sampler: predict the datum, noise it again to the next level, and so on.

    x_{i+1} = (1 - t_{i+1}) x0_hat(x_i, t_i) + t_{i+1} e_{i+1}, from x_0 = e_0 at t_0 = 1

    Args:
        player: answers "x0" on columns x, t.
        batch: the rows; its column x gives the shape of a datum, other columns (a class `y`) go along.
        times: falling levels from 1; a last level of 0 gives the sample itself.

    Returns:
        The state at each level, (B, ...) each.

    Source: Song et al., arXiv:2303.01469, algorithm 1.
    """
    shape = batch.x.shape[1:]
    states = [batch.rng.normal("z", *shape).to(batch.x.dtype)]
    for i, (t, nearer) in enumerate(pairwise(times)):
        level = torch.full((batch.size,), t, dtype=batch.x.dtype, device=batch.device)
        x0 = player(batch.with_(x=states[-1], t=level), "x0")
        noise = batch.rng.fold(i).normal("again", *shape).to(x0.dtype)
        states.append((1 - nearer) * x0 + nearer * noise)
    return states


@part
def few_step(players: Players, batch: Batch, *, times: tuple[float, ...] = (1.0,)) -> Tensor:
    """Sample the student in as many steps as there are levels.

    x <- (1 - t_{i+1}) x0_hat(x, t_i) + t_{i+1} e, from noise at t = 1; the last prediction is the sample

    Args:
        players: the student answers "x0".
        batch: rows whose column x has the shape of a datum.
        times: falling levels from 1; one alone is a one-step generator.

    Returns:
        (B, ...) samples.

    Example:
        >>> from types import SimpleNamespace
        >>> players = SimpleNamespace(student=lambda batch, want: torch.full_like(batch.x, 7.0))
        >>> few_step()(players, Batch({"x": torch.zeros(1, 2)}))
        tensor([[7., 7.]])

    Source: Song et al., arXiv:2303.01469, algorithm 1.
    """
    return few_step_states(players.student, batch, (*times, 0.0))[-1]


def _at_levels(batch: Batch, states: list[Tensor], times: tuple[float, ...]) -> Batch:
    """Give every row one of the levels at random, and its state there."""
    k = batch.rng.integers("step", len(times)).view(-1)
    x = torch.stack(states)[k, torch.arange(batch.size, device=k.device)]
    return batch.with_(real=batch.x, x=x, t=torch.tensor(times, dtype=x.dtype, device=x.device)[k])


@part
def noise_states(players: Players, batch: Batch) -> Batch:
    """What a one-step generator meets: pure noise.

    x ~ N(0, I), t = 1

    Args:
        players: not asked.
        batch: rows whose column x is a datum.

    Returns:
        The batch with the noise in x, its level in t, and the datum in `real`.

    Example:
        >>> states = noise_states()(None, Batch({"x": torch.zeros(2, 3)}))
        >>> states.t, states.x.shape
        (tensor([1., 1.]), torch.Size([2, 3]))

    Source: Yin et al., arXiv:2311.18828.
    """
    return _at_levels(batch, [batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)], (1.0,))


@part
def noised_states(players: Players, batch: Batch, *, times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)) -> Batch:
    """What a few-step student is trained on without simulation: real data, noised to one of its levels.

    x = (1 - t) x_real + t e, t uniform over the levels

    Args:
        players: not asked.
        batch: rows whose column x is a datum.
        times: the levels of the student.

    Returns:
        The batch with the state in x, its level in t, and the datum in `real`.

    Example:
        >>> states = noised_states(times=(0.5,))(None, Batch({"x": torch.ones(2, 3)}))
        >>> states.t, states.real.shape
        (tensor([0.5000, 0.5000]), torch.Size([2, 3]))
    """
    noise = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
    return _at_levels(batch, [(1 - t) * batch.x + t * noise for t in times], times)


@part
def backward_simulated(players: Players, batch: Batch, *, times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)) -> Batch:
    """What a few-step student meets when it samples: the states of its own run, down to a random step.

    x_{i+1} = (1 - t_{i+1}) x0_student(x_i, t_i) + t_{i+1} e;  x = x_k, k uniform over the steps

    Args:
        players: the student answers "x0"; nothing flows back through the run.
        batch: rows whose column x is a datum; only its shape is used.
        times: falling levels from 1; one alone gives pure noise.

    Returns:
        The batch with the state in x, its level in t, and the datum in `real`.

    Source: Yin et al., arXiv:2405.14867, section 4.5.
    """
    with torch.no_grad():
        return _at_levels(batch, few_step_states(players.student, batch, times), times)
