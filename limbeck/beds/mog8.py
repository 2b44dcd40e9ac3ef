"""Eight equal Gaussians on a circle of radius 2; the teacher is the exact field."""

from __future__ import annotations

import torch

from limbeck.beds._mixture import Mixture
from limbeck.beds._points import points_bed, ring

bed = points_bed(
    "mog8",
    "eight equal Gaussians on a circle: density, score, posterior means and flow map are known in closed form",
    Mixture(torch.ones(8), ring(8, 2.0), 0.15),
)
