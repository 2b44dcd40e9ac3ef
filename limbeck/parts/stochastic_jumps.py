"""Sampling with jumps that overshoot: go further down than the next level, and come back with fresh noise.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.consistency import reached
from limbeck.players import Players

__all__ = ["jump_and_noise", "renoise"]


def renoise(x: Tensor, s: float, t: float, noise: Tensor) -> Tensor:
    """Carry a state from a level to a higher one by fresh noise, so that its law is that of the path.

    x_t = k x_s + sqrt(t^2 - k^2 s^2) z,  k = (1 - t) / (1 - s)

    Args:
        x: (B, ...) states at level s.
        s: their level, below 1.
        t: the level to reach, at least s.
        noise: z, (B, ...).

    Returns:
        (B, ...).

    Example:
        >>> renoise(torch.ones(1, 2), 0.0, 0.75, torch.zeros(1, 2))
        tensor([[0.2500, 0.2500]])

    Source: Ho et al., arXiv:2006.11239, the forward process, carried to this path.
    """
    keep = (1 - t) / (1 - s)
    return keep * x + max(0.0, t**2 - (keep * s) ** 2) ** 0.5 * noise


@part
def jump_and_noise(
    players: Players,
    batch: Batch,
    *,
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25, 0.0),
    gamma: float = 0.3,
    told: bool = True,
) -> Tensor:
    """Sample a student of jumps: to each level of the grid by way of a lower one, from which noise brings it back.

    x_s = G(x, t_i, s), s = (1 - gamma) t_{i+1};  x = k x_s + sqrt(t_{i+1}^2 - k^2 s^2) z, k = (1 - t_{i+1}) / (1 - s)

    Args:
        players: the student answers "velocity" on columns x, t, and s if it is told.
        batch: rows whose column x has the shape of a datum.
        times: falling levels from 1 to 0.
        gamma: 0 for jumps alone, 1 to go down to the data each time, as consistency models do.
        told: whether the net sees the level to reach.

    Returns:
        (B, ...) samples.

    Raises:
        BadValue: gamma outside [0, 1].

    Example:
        >>> from types import SimpleNamespace
        >>> towards_zero = SimpleNamespace(student=lambda batch, want: batch.x)
        >>> jump_and_noise(times=(1.0, 0.0))(towards_zero, Batch({"x": torch.ones(1, 2)}))
        tensor([[0., 0.]])

    Source: Zheng et al., arXiv:2402.19159, strategic stochastic sampling, on this path.
    """
    if not 0 <= gamma <= 1:
        raise BadValue(f"jump_and_noise.gamma must lie in [0, 1], got {gamma}")
    shape = batch.x.shape[1:]
    x = batch.rng.normal("z", *shape).to(batch.x.dtype)
    for i, (here, there) in enumerate(pairwise(times)):
        s = (1 - gamma) * there
        level = torch.full((batch.size,), here, dtype=x.dtype, device=x.device)
        x = reached(players.student, batch.with_(x=x, t=level, s=torch.full_like(level, s)), told)
        x = renoise(x, s, there, batch.rng.fold(i).normal("again", *shape).to(x.dtype))
    return x
