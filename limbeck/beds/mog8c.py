"""Eight equal Gaussians on a circle of radius 2 in four classes, each of two opposite modes; the teacher is exact.

Its fields of each class and of none are known, so guidance is too.
"""

from __future__ import annotations

import torch

from limbeck.beds._mixture import Mixture
from limbeck.beds._points import points_bed, ring

bed = points_bed(
    "mog8c",
    "eight Gaussians in four classes: the fields of each class and of none are known in closed form",
    Mixture(torch.ones(8), ring(8, 2.0), 0.15),
    labels=torch.arange(8) % 4,
)
