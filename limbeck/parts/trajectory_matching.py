"""Trajectories of training: nets that learnt from real data, kept at every epoch, and how far from them one ends up
that learns from something else.

A trajectory is a row of data: an expert made by a *make* stage, whose column `path` holds its weights before the first
epoch and after each. So experts are journalled, shuffled and shared over processes like any rows.

Legend of shapes: N rows of the data, E experts, T epochs, B trajectories of a batch, P weights of a net.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.descent import descent_step, fresh_weights, unroll
from limbeck.players import Players

__all__ = ["expert_trajectories", "trajectory_distance"]


@part
def expert_trajectories(
    players: Players,
    batch: Batch,
    *,
    experts: int = 100,
    epochs: int = 50,
    lr: float = 0.01,
    batch_size: int = 256,
) -> Batch:
    """Train nets of the student's architecture, each from its own start and in its own order, and keep every epoch.

    th_{t,i+1} = th_{t,i} - lr grad mean_r CE(f(x_r; th_{t,i}), y_r) over the batches of epoch t; kept: th*_0 .. th*_T

    Args:
        players: the student is the architecture; its weights are not used.
        batch: the whole data, columns x and y.
        experts: E.
        epochs: T.
        lr: the step size.
        batch_size: rows of a step.

    Returns:
        E rows with the column path (E, T + 1, P).

    Raises:
        Mismatch: a student whose weights cannot be drawn afresh.

    Source: Cazenavette et al., arXiv:2203.11932, section 3.1.
    """
    net = players.student.module
    assert net is not None
    rate, paths = batch.x.new_tensor(lr), []
    for expert in range(experts):
        w_P = fresh_weights(net, (*batch.rng.key, expert))[0].to(batch.x.dtype)
        path = [w_P]
        for epoch in range(epochs):
            order_N = batch.rng.fold(expert, epoch).uniform("order").view(-1).argsort()
            for rows in order_N.split(batch_size):
                w_P = descent_step(net, w_P, batch.x[rows], batch.y[rows], rate).detach()
            path.append(w_P)
        paths.append(torch.stack(path))
    return Batch({"path": torch.stack(paths)})


@part
def trajectory_distance(
    players: Players, batch: Batch, *, steps: int = 30, ahead: int = 2, starts: int = 15, recompute: bool = False
) -> Tensor:
    """Where a net ends up that learns from the synthetic rows, seen from where the expert went.

    |th_N - th*_{t+M}|^2 / |th*_t - th*_{t+M}|^2, th_0 = th*_t, th_{n+1} = th_n - rate grad mean CE(f(x; th_n), y),
    t uniform over the first epochs

    Args:
        players: `images` and `rate` learn; the student is the architecture.
        batch: trajectories, column path (B, T + 1, P).
        steps: N, those on the synthetic rows, all of which serve every step.
        ahead: M, the epochs of the expert that they should match.
        starts: the number of epochs from which a start is drawn.
        recompute: take the steps again on the way back in place of keeping their graphs.

    Returns:
        (B,).

    Raises:
        BadValue: the trajectories are too short.

    Source: Cazenavette et al., arXiv:2203.11932, equation 2 and algorithm 1.
    """
    path, net = batch.path, players.student.module
    if starts - 1 + ahead >= path.shape[1]:
        raise BadValue(f"starts {starts} and ahead {ahead} need {starts - 1 + ahead} epochs, got {path.shape[1] - 1}")
    assert isinstance(net, nn.Module)
    start_B, row_B = batch.rng.integers("start", starts).view(-1), torch.arange(batch.size, device=path.device)
    begin_BP, goal_BP = path[row_B, start_B], path[row_B, start_B + ahead]
    x, y, rate = players.images.value, players.images.y, players.rate.value
    ends = [unroll(net, w_P, x, y, rate, steps=steps, recompute=recompute) for w_P in begin_BP]
    return (torch.stack(ends) - goal_BP).square().sum(1) / (begin_BP - goal_BP).square().sum(1)
