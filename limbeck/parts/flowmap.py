"""Flow maps: one net that jumps from any level to any lower one, and the conditions that make it a flow.

A net answers "velocity" on columns x, t and s <= t with u(x, t, s), the average velocity on the way from level t down
to level s. Its jump is G(x, t, s) = x + (s - t) u(x, t, s); on the diagonal, s = t, u is the velocity field itself. Off
the diagonal three conditions say the same thing of an exact map and train differently when it is not:

    Lagrangian  dG/ds = u(G, s, s)                  where the jump lands, it moves with the field
    Eulerian    dG/dt + (dG/dx) u(x, t, t) = 0      starting further along the way changes nothing
    semigroup   G(., t, s) = G(G(., t, r), r, s)    two jumps are one

In each, the field and whatever else teaches is held fixed, so that knowledge flows from the diagonal outwards.
Levels are those of the rectified-flow path: 0 is data, 1 is noise.

Shapes: B rows, N of them chosen; a datum has any shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.flow_matching import flow_matching
from limbeck.parts.jvp import jvp
from limbeck.parts.states import like
from limbeck.players import Players
from limbeck.rng import Rng

__all__ = [
    "LogWeight",
    "any_step",
    "average_velocity",
    "eulerian",
    "jump",
    "lagrangian",
    "log_weight",
    "off_diagonal",
    "on_diagonal",
    "semigroup",
    "triangle_states",
]


def average_velocity(players: Players, batch: Batch, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Ask the student for u(x, t, s).

    Args:
        players: the student answers "velocity" on columns x, t, s.
        batch: the rows, whose other columns (a class `y`) go along.
        x: (B, ...) states.
        t: (B,) levels of the states.
        s: (B,) levels to reach.

    Returns:
        (B, ...).

    Source: Geng et al., "Mean Flows for One-step Generative Modeling", arXiv:2505.13447.
    """
    return players.student(batch.with_(x=x, t=t, s=s), "velocity")  # type: ignore[no-any-return]


def jump(x: Tensor, t: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """Go from level t to level s at an average velocity.

    G = x + (s - t) u

    Args:
        x: (B, ...) states.
        t: (B,) levels of the states.
        s: (B,) levels to reach.
        u: (B, ...) average velocities.

    Returns:
        (B, ...).

    Example:
        >>> jump(torch.ones(1, 2), torch.ones(1), torch.zeros(1), torch.full((1, 2), 3.0))
        tensor([[-2., -2.]])

    Source: Boffi et al., arXiv:2505.18825.
    """
    return x + like(s - t, x) * u


def _square(residual: Tensor) -> Tensor:
    """(B, ...) to (B,): summed over the coordinates of a datum."""
    return residual.square().flatten(1).sum(1)


# -- states -----------------------------------------------------------------------------------------------------------


@part
def triangle_states(players: Players, batch: Batch, *, diagonal: float = 0.75) -> Batch:
    """Noised data with a level to reach: a share on the diagonal, the rest spread evenly over the triangle 0 < s < t.

    x = (1 - t) x0 + t e;  velocity = e - x0

    Args:
        players: not asked.
        batch: rows whose column x is a datum.
        diagonal: the share of the rows, on average, that have s = t.

    Returns:
        The batch with the state in x, the levels t and s, and the slope of its straight line in `velocity`.

    Example:
        >>> states = triangle_states(diagonal=0.5)(None, Batch({"x": torch.zeros(99, 3)}))
        >>> bool((states.s <= states.t).all()), 30 < int((states.s == states.t).sum()) < 70
        (True, True)

    Source: Boffi et al., arXiv:2505.18825, the training of the map, with time reversed.
    """
    x0, rng = batch.x, batch.rng
    noise = rng.normal("noise", *x0.shape[1:]).to(x0.dtype)
    ends = rng.uniform("levels", 2).to(x0.dtype)
    on = rng.uniform("diagonal").view(-1) < diagonal
    t, s = torch.where(on, ends[:, 0], ends.amax(1)), torch.where(on, ends[:, 0], ends.amin(1))
    return batch.with_(x=(1 - like(t, x0)) * x0 + like(t, x0) * noise, t=t, s=s, velocity=noise - x0)


# -- conditions -------------------------------------------------------------------------------------------------------


@part
def lagrangian(players: Players, batch: Batch) -> Tensor:
    """Where the jump lands, it moves with the field; no derivative with respect to x is needed.

    |dG/ds - sg[u(G, s, s)]|^2, G = x + (s - t) u(x, t, s), dG/ds = u + (s - t) du/ds

    Args:
        players: the student answers "velocity" on columns x, t, s.
        batch: the states, with s <= t.

    Returns:
        (B,).

    Raises:
        BadValue: no way to the derivative works for the student's net (see `limbeck.parts.jvp`).

    Source: Boffi et al., arXiv:2505.18825, Lagrangian self-distillation.
    """
    x, t, s = batch.x, batch.t, batch.s
    u, du = jvp(lambda r: average_velocity(players, batch, x, t, r), (s,), (torch.ones_like(s),))
    with torch.no_grad():
        field = average_velocity(players, batch, jump(x, t, s, u), s, s)
    return _square(u + like(s - t, x) * du - field)


@part
def eulerian(players: Players, batch: Batch) -> Tensor:
    """Starting further along the way changes nothing; the derivative with respect to x is held fixed.

    |dG/dt + sg[(dG/dx) u(x, t, t)]|^2, G = x + (s - t) u(x, t, s), dG/dt = -u + (s - t) du/dt

    Args:
        players: the student answers "velocity" on columns x, t, s.
        batch: the states, with s <= t.

    Returns:
        (B,).

    Raises:
        BadValue: no way to the derivative works for the student's net (see `limbeck.parts.jvp`).

    Source: Boffi et al., arXiv:2505.18825, Eulerian self-distillation.
    """
    x, t, s = batch.x, batch.t, batch.s
    u, du = jvp(lambda r: average_velocity(players, batch, x, r, s), (t,), (torch.ones_like(t),))
    with torch.no_grad():
        field = average_velocity(players, batch, x, t, t)
        _, carried = jvp(lambda y: jump(y, t, s, average_velocity(players, batch, y, t, s)), (x,), (field,))
    return _square(like(s - t, x) * du - u + carried)


@part
def semigroup(players: Players, batch: Batch, *, low: float = 0.5, high: float = 0.5) -> Tensor:
    """Two jumps are one: the student's own two short jumps teach the long one.

    |u(x, t, s) - sg[g u(x, t, r) + (1 - g) u(G(x, t, r), r, s)]|^2, r = t + g (s - t), g ~ U(low, high)

    Args:
        players: the student answers "velocity" on columns x, t, s.
        batch: the states, with s <= t.
        low: the least part of the way that the first jump goes; equal to `high` for the middle.
        high: the greatest part of the way.

    Returns:
        (B,).

    Example:
        >>> from types import SimpleNamespace
        >>> straight = SimpleNamespace(student=lambda batch, want: torch.ones_like(batch.x))
        >>> states = Batch({"x": torch.zeros(2, 3), "t": torch.ones(2), "s": torch.zeros(2)})
        >>> semigroup()(straight, states)
        tensor([0., 0.])

    Source: Boffi et al., arXiv:2505.18825, progressive self-distillation; at the middle, Frans et al.,
        arXiv:2410.12557.
    """
    x, t, s = batch.x, batch.t, batch.s
    g = low + (high - low) * batch.rng.uniform("split").view(-1).to(t.dtype)
    r = t + g * (s - t)
    with torch.no_grad():
        first = average_velocity(players, batch, x, t, r)
        second = average_velocity(players, batch, jump(x, t, r, first), r, s)
        target = like(g, x) * first + like(1 - g, x) * second
    return _square(average_velocity(players, batch, x, t, s) - target)


# -- weights ----------------------------------------------------------------------------------------------------------


class LogWeight(nn.Module):
    """The logarithm of the size of a loss as a function of both levels; zero at first.

    Args:
        width: hidden units.
        waves: frequencies at which the levels are read.

    Example:
        >>> LogWeight(8, 2)({"t": torch.ones(2), "s": torch.zeros(2)}, frozenset({"log_weight"}))["log_weight"].tolist()
        [0.0, 0.0]

    Source: Karras et al., arXiv:2312.02696, equation 21, with two levels.
    """

    frequencies: Tensor

    def __init__(self, width: int, waves: int) -> None:
        super().__init__()
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(4 * waves, width), nn.SiLU(), last)
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(-1, waves - 1), persistent=False)

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "log_weight" (B,) on columns t, s."""
        angles = torch.stack((batch["t"], batch["s"]), 1)[:, :, None] * self.frequencies
        return {"log_weight": self.net(torch.cat((angles.sin(), angles.cos()), 2).flatten(1)).squeeze(1)}


@part
def log_weight(players: Players, batch: Batch, *, width: int = 32, waves: int = 2) -> LogWeight:
    """Build the player that learns how large the loss is at each pair of levels, so that all weigh alike.

    w(t, s), minimising e^-w L + w: at its best w = log L

    Args:
        players: not asked.
        batch: some rows of data, for the device.
        width: hidden units.
        waves: frequencies at which the levels are read; few, so that w is smooth.

    Returns:
        The module.

    Source: Karras et al., arXiv:2312.02696, equation 21, with two levels.
    """
    return LogWeight(width, waves).to(batch.device)


MATCHING, LAGRANGIAN = flow_matching(), lagrangian()


def _weighed(players: Players, batch: Batch, loss: Expr, chosen: Tensor) -> Tensor:
    """The loss of the chosen rows by its learned weight, e^-w L + w; zero elsewhere. (B,)."""
    index = chosen.nonzero().squeeze(1)
    out = torch.zeros(batch.size, dtype=batch.x.dtype, device=batch.device)
    if not len(index):
        return out
    columns = {k: c[index] for k, c in batch.columns.items() if isinstance(c, Tensor)}
    rows = replace(batch, columns=columns, rng=Rng(batch.rng.key, batch.rng.rows[index]), memo={})
    w = players.weights(rows, "log_weight")
    return out.index_put((index,), (-w).exp() * loss(players, rows) + w)  # type: ignore[operator]


@part
def on_diagonal(players: Players, batch: Batch, *, loss: Expr = MATCHING) -> Tensor:
    """A loss on the rows with s = t, by its learned weight.

    e^-w(t, t) L + w(t, t) where s = t, 0 elsewhere

    Args:
        players: `weights` answers "log_weight" on columns t, s; the loss says what it asks of the student.
        batch: the states.
        loss: a loss part with one loss a row.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `weights`.

    Source: Karras et al., arXiv:2312.02696, equation 21, with two levels.
    """
    return _weighed(players, batch, loss, batch.s == batch.t)


@part
def off_diagonal(players: Players, batch: Batch, *, loss: Expr = LAGRANGIAN) -> Tensor:
    """A loss on the rows with s < t, by its learned weight.

    e^-w(t, s) L + w(t, s) where s < t, 0 elsewhere

    Args:
        players: `weights` answers "log_weight" on columns t, s; the loss says what it asks of the student.
        batch: the states.
        loss: a loss part with one loss a row.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `weights`.

    Source: Karras et al., arXiv:2312.02696, equation 21, with two levels.
    """
    return _weighed(players, batch, loss, batch.s < batch.t)


# -- sampling ---------------------------------------------------------------------------------------------------------


@part
def any_step(players: Players, batch: Batch, *, times: tuple[float, ...] = (1.0, 0.0)) -> Tensor:
    """Sample the student by jumps over any grid of levels.

    x <- G(x, t_i, t_{i+1}), from noise at t = 1

    Args:
        players: the student answers "velocity" on columns x, t, s.
        batch: rows whose column x has the shape of a datum.
        times: falling levels from 1 to 0; two of them make a one-step generator.

    Returns:
        (B, ...) samples.

    Example:
        >>> from types import SimpleNamespace
        >>> towards_zero = SimpleNamespace(student=lambda batch, want: batch.x)
        >>> any_step()(towards_zero, Batch({"x": torch.ones(1, 2)}))
        tensor([[0., 0.]])

    Source: Boffi et al., arXiv:2505.18825.
    """
    x = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
    for here, there in pairwise(times):
        t, s = (torch.full((batch.size,), level, dtype=x.dtype, device=x.device) for level in (here, there))
        x = jump(x, t, s, average_velocity(players, batch, x, t, s))
    return x
