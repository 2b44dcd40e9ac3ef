"""Five long Gaussians of unequal weight that lie across each other: trajectories that bend; the teacher is exact."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.beds._mixture import Mixture
from limbeck.beds._points import points_bed

WEIGHTS = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1])
MEANS = torch.tensor([[-1.5, -1.0], [1.6, -0.8], [0.2, 1.7], [-1.2, 1.2], [1.3, 1.0]])


def _long(angles: tuple[float, ...], along: float, across: float) -> Tensor:
    """Covariances with the given deviations along and across a direction, (K, 2, 2)."""
    turn = torch.tensor([[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles])
    return turn @ torch.diag(torch.tensor([along**2, across**2])) @ turn.mT


bed = points_bed(
    "mog5",
    "five long Gaussians of unequal weight: the fields and the bent trajectories are known in closed form",
    Mixture(WEIGHTS, MEANS, _long((0.3, 1.2, 2.2, 0.9, 2.8), 0.5, 0.08)),
)
