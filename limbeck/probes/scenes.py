"""How good scenes are: what one sees of them, against what is there to see.

Shapes: N rows, D coordinates, K modes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.scene import rendered
from limbeck.players import Players
from limbeck.probes.distribution import sampled

__all__ = ["spread_error"]

SEEN = rendered()


@part
def spread_error(players: Players, data: Mapping[str, Source], *, draw: Expr = SEEN, rows: int = 10_000) -> float:
    """How far the spread of the samples within a mode is from that of the data.

    |1 - s_samples / s_data|, s^2 the mean square distance of what lies nearest to a mode from its own mean there

    Args:
        players: what is sampled.
        data: the test split has columns x and mode; the means of the modes are taken from it.
        draw: the sampler.
        rows: how many samples and data, at most.

    Returns:
        0 for the right spread, 1 for samples that have all fallen onto one point in each mode.

    Raises:
        UnknownName: the test split has no column x, or none `mode`.
    """
    x, truth = sampled(players, data, draw, rows)
    real = truth.x.flatten(1).double()
    due = torch.nn.functional.one_hot(truth.mode).double()
    means = due.T @ real / due.sum(0)[:, None]
    nearest = torch.cdist(x, means).argmin(1)
    return abs(1 - _within(x, nearest) / _within(real, truth.mode))


def _within(x: Tensor, mode: Tensor) -> float:
    """The root mean square distance of samples from the mean of their mode."""
    member = torch.nn.functional.one_hot(mode).to(x)
    means = member.T @ x / member.sum(0).clamp(min=1)[:, None]
    return float((x - means[mode]).square().sum(1).mean().sqrt())
