"""Preferences between samples of a few-step generator, which is a policy over its own short chain.

A step of the chain predicts the datum and noises it again to the next level, so it is a draw from a Gaussian,

    x_{k+1} ~ N((1 - s) x0(x_k, t_k), s^2 I),  s = t_{k+1},

and the probability of a step that was taken is known under any weights. The last step, to s = 0, is certain and has
none. A row holds the preferred sample in `better` and the other in `worse`; where both were drawn by a chain, its
states are in `chain` and `rival`.

Shapes: B rows, n levels, n + 1 states of a chain; a datum has any shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.levels import grid_levels
from limbeck.parts.states import few_step_states, like, noised
from limbeck.players import Player, Players

__all__ = [
    "better_denoising",
    "chain_preference",
    "data_over_samples",
    "preferred_chains",
    "sample_preference",
    "step_log_density",
]

FOUR = (1.0, 0.75, 0.5, 0.25)
ON_GRID = grid_levels(times=FOUR)


def step_log_density(player: Player, batch: Batch, x: Tensor, t: Tensor, there: Tensor, s: Tensor) -> Tensor:
    """The log density of a step of the chain, in the mean over coordinates and without its constant.

    -mean(x_s - (1 - s) x0(x_t, t))^2 / (2 s^2)

    Args:
        player: answers "x0".
        batch: the rows, whose other columns (a class `y`) go along.
        x: (B, ...) states.
        t: (B,) their levels.
        there: (B, ...) the states that the step led to.
        s: (B,) their levels, above 0.

    Returns:
        (B,).

    Source: Miao et al., arXiv:2410.03190, with the mean of the public code.
    """
    x0 = player(batch.with_(x=x, t=t), "x0")
    return -(there - like(1 - s, x) * x0).square().flatten(1).mean(1) / (2 * s.square())


def _chain(player: Player, batch: Batch, times: tuple[float, ...], name: str) -> Tensor:
    """All states of a run of its own, (B, n + 1, ...)."""
    alone = Batch(batch.columns, batch.rng.fold(name), batch.at, batch.counts)
    return torch.stack(few_step_states(player, alone, (*times, 0.0)), 1)


@part
def preferred_chains(players: Players, batch: Batch, *, times: tuple[float, ...] = FOUR) -> Batch:
    """Let the student draw twice and a reward choose.

    better = argmax(r(x), r(x')), each with the states that led there

    Args:
        players: the student answers "x0", `reward` answers "reward" (B,) on x.
        batch: rows whose column x has the shape of a datum.
        times: falling levels from 1.

    Returns:
        The batch with `better`, `worse`, and their chains in `chain` and `rival`.

    Raises:
        UnknownName: there is no player `reward`.

    Source: Miao et al., arXiv:2410.03190, online form.
    """
    first, second = (_chain(players.student, batch, times, name) for name in ("first", "second"))
    likes = [players.reward(batch.with_(x=chain[:, -1]), "reward") for chain in (first, second)]
    wins = (likes[0] >= likes[1]).view(-1, *[1] * (first.ndim - 1))
    chain, rival = torch.where(wins, first, second), torch.where(wins, second, first)
    return batch.with_(chain=chain, rival=rival, better=chain[:, -1], worse=rival[:, -1])


@part
def data_over_samples(players: Players, batch: Batch, *, times: tuple[float, ...] = FOUR) -> Batch:
    """Prefer the datum of a row to what the reference draws in its place.

    better = x, worse ~ pi_ref

    Args:
        players: `reference` answers "x0".
        batch: rows whose column x is a datum that the student should come to draw.
        times: falling levels from 1.

    Returns:
        The batch with `better` and `worse`.

    Raises:
        UnknownName: there is no player `reference`.

    Source: Miao et al., arXiv:2410.03190, offline form.
    """
    return batch.with_(better=batch.x, worse=_chain(players.reference, batch, times, "worse")[:, -1])


@part
def chain_preference(
    players: Players, batch: Batch, *, times: tuple[float, ...] = FOUR, beta: float = 50.0, clip: float = 0.1
) -> Tensor:
    """Prefer the steps that led to the better sample, at a random step of the chain.

    -log sigmoid(beta (log q_w - log q_l)), q = clip(pi(x_{k+1} | x_k) / pi_ref(x_{k+1} | x_k), 1 - c, 1 + c)

    Args:
        players: student and `reference`, the student before it was tuned, answer "x0".
        batch: two chains a row, in `chain` and `rival`.
        times: the levels of the chain, two at least.
        beta: how much of the distance from the reference a preference costs.
        clip: c; from 1 on there is no lower bound.

    Returns:
        (B,).

    Raises:
        BadValue: a chain of one step, which is certain, or chains of other levels.

    Source: Miao et al., arXiv:2410.03190; clipping, step by step, as in its public code.
    """
    n = len(times)
    if n < 2 or batch.chain.shape[1] != n + 1:
        raise BadValue(
            f"a preference over steps needs chains of 2 levels or more, {n} and 1 more states; got {n} levels"
        )
    k = batch.rng.integers("step", n - 1).view(-1)
    rows, level = torch.arange(batch.size, device=k.device), torch.tensor(times, device=k.device).to(batch.chain.dtype)
    low = math.log1p(-clip) if clip < 1 else -math.inf

    def ratio(chain: Tensor) -> Tensor:
        step = (chain[rows, k], level[k], chain[rows, k + 1], level[k + 1])
        own = step_log_density(players.student, batch, *step)
        return (own - step_log_density(players.reference, batch, *step).detach()).clamp(low, math.log1p(clip))

    return -logsigmoid(beta * (ratio(batch.chain) - ratio(batch.rival)))


@part
def sample_preference(players: Players, batch: Batch, *, levels: Expr = ON_GRID, beta: float = 50.0) -> Tensor:
    """Prefer the better sample, by how much better than the reference the student denoises it.

    -log sigmoid(beta (d_w - d_l)), d = mean(mu_ref(x_t) - x)^2 - mean(mu(x_t) - x)^2

    Args:
        players: student and `reference` answer "x0".
        batch: rows with `better` and `worse`.
        levels: a level part: those of the student for a few-step one, all levels for a diffusion model.
        beta: how much of the distance from the reference a preference costs.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `reference`, or no column `better`.

    Source: Miao et al., arXiv:2410.03190, offline form; with all levels, Wallace et al., arXiv:2311.12908.
    """

    def gain(x: Tensor) -> Tensor:
        seen = noised(players, batch, x, levels, "preference")
        off = [(p(seen, "x0") - x).square().flatten(1).mean(1) for p in (players.reference, players.student)]
        return off[0].detach() - off[1]

    return -logsigmoid(beta * (gain(batch.better) - gain(batch.worse)))


@part
def better_denoising(players: Players, batch: Batch, *, levels: Expr = ON_GRID) -> Tensor:
    """Denoise the better sample and forget the other: ordinary finetuning on what was preferred.

    mean(mu(x_t) - x_w)^2

    Args:
        players: the student answers "x0".
        batch: rows with `better`.
        levels: a level part.

    Returns:
        (B,).

    Raises:
        UnknownName: the batch has no column `better`.
    """
    seen = noised(players, batch, batch.better, levels, "denoising")
    return (players.student(seen, "x0") - batch.better).square().flatten(1).mean(1)
