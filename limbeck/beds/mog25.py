"""Twenty-five equal Gaussians on a 5 x 5 grid of spacing 1; the teacher is the exact field."""

from __future__ import annotations

import torch

from limbeck.beds._mixture import Mixture
from limbeck.beds._points import grid, points_bed

bed = points_bed(
    "mog25",
    "twenty-five equal Gaussians on a grid: density, score, posterior means and flow map are known in closed form",
    Mixture(torch.ones(25), grid(5, 1.0), 0.1),
)
