"""Where on the path a loss is taken: densities over the levels of rectified flow, each a part that gives t (B,).

Even and Karras levels are in `limbeck.parts.states`. A density that a paper states over another time is carried over by
the ratio of noise to signal, sigma = t / (1 - t).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.players import Players

__all__ = ["EDM_LEVELS", "grid_levels", "logit_normal_levels", "u_shaped_levels"]


@part
def logit_normal_levels(players: Players, batch: Batch, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Levels that crowd in the middle of the path, or where `mean` moves them.

    log(t / (1 - t)) ~ N(mean, std^2); so sigma = t / (1 - t) is log-normal, with mean -1.2 and std 1.2 as in EDM

    Args:
        players: not asked.
        batch: the rows.
        mean: above 0 for more noise.
        std: how wide.

    Returns:
        (B,).

    Example:
        >>> logit_normal_levels(mean=0.0, std=0.0)(None, Batch({"x": torch.zeros(2, 1)}))
        tensor([0.5000, 0.5000])

    Source: Esser et al., arXiv:2403.03206, logit-normal sampling; Karras et al., arXiv:2206.00364, for the noise.
    """
    return torch.sigmoid(mean + std * batch.rng.normal("level").view(-1))


EDM_LEVELS = logit_normal_levels(mean=-1.2, std=1.2)


@part
def u_shaped_levels(players: Players, batch: Batch, *, steepness: float = 4.0) -> Tensor:
    """Levels that crowd at both ends, where a straightened flow still errs.

    p(t) ~ e^(a t) + e^(a (1 - t)) on (0, 1); the paper prints e^(a t) + e^(-a t), its code mirrors half of the draws

    Args:
        players: not asked.
        batch: the rows.
        steepness: a; near 0 for even levels.

    Returns:
        (B,).

    Raises:
        ZeroDivisionError: a steepness of 0.

    Example:
        >>> t = u_shaped_levels(steepness=8.0)(None, Batch({"x": torch.zeros(400, 1)}))
        >>> bool(((t - 0.5).abs() > 0.25).float().mean() > 0.8)
        True

    Source: Lee et al., arXiv:2405.20320, the U-shaped distribution.
    """
    u = batch.rng.uniform("level").view(-1)
    t = torch.log1p(u * math.expm1(steepness)) / steepness
    return torch.where(batch.rng.uniform("side").view(-1) < 0.5, t, 1 - t)


@part
def grid_levels(players: Players, batch: Batch, *, times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)) -> Tensor:
    """One of a few levels, all equally likely.

    t = times[k], k uniform

    Args:
        players: not asked.
        batch: the rows.
        times: the levels.

    Returns:
        (B,).

    Example:
        >>> grid_levels(times=(0.25,))(None, Batch({"x": torch.zeros(2, 1)}))
        tensor([0.2500, 0.2500])
    """
    k = batch.rng.integers("level", len(times)).view(-1)
    return torch.tensor(times, device=k.device)[k]
