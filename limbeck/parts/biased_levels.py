"""Levels that favour some: a few with chances of their own, and pure noise for a share of the rows.

Each is a part that gives t (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.levels import logit_normal_levels
from limbeck.players import Players

__all__ = ["chosen_levels", "often_noise"]

MIDDLE = logit_normal_levels()


@part
def chosen_levels(
    players: Players,
    batch: Batch,
    *,
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25),
    chances: tuple[float, ...] = (0.7, 0.1, 0.1, 0.1),
) -> Tensor:
    """One of a few levels, each with its chance.

    t = times[k] with probability p_k / sum p

    Args:
        players: not asked.
        batch: the rows.
        times: the levels.
        chances: p, as many.

    Returns:
        (B,).

    Raises:
        BadValue: not as many chances as levels, one below 0, or none above.

    Example:
        >>> chosen_levels(times=(1.0, 0.5), chances=(0.0, 1.0))(None, Batch({"x": torch.zeros(2, 1)}))
        tensor([0.5000, 0.5000])

    Source: Sauer et al., arXiv:2403.12015, for few steps.
    """
    if len(times) != len(chances) or min(chances) < 0 or not sum(chances):
        raise BadValue(f"chosen_levels needs a chance >= 0 for each of {len(times)} levels, got {chances}")
    u = batch.rng.uniform("level").view(-1)
    edges = torch.tensor(chances, dtype=torch.float64, device=u.device).cumsum(0)
    k = torch.searchsorted(edges / edges[-1], u.double(), right=True).clamp(max=len(times) - 1)
    return torch.tensor(times, device=u.device)[k]


@part
def often_noise(players: Players, batch: Batch, *, levels: Expr = MIDDLE, share: float = 0.5) -> Tensor:
    """Pure noise for a share of the rows, so that the first step is trained most.

    t = 1 with probability p, else t ~ levels

    Args:
        players: for the levels.
        batch: the rows.
        levels: a level part for the others.
        share: p.

    Returns:
        (B,).

    Example:
        >>> often_noise(share=1.0)(None, Batch({"x": torch.zeros(2, 1)}))
        tensor([1., 1.])

    Source: Chen et al., arXiv:2503.09641, and its code.
    """
    t: Tensor = levels(players, batch)  # type: ignore[operator]
    return torch.where(batch.rng.uniform("noise only").view(-1) < share, torch.ones_like(t), t)
