"""Eight Gaussians on a circle with weights 1 : 2 : ... : 8, and a teacher that is wrong about two of them.

The teacher is the exact field of a mixture in which the fourth mode weighs twice, and the seventh half, of what it
should (relative to the other six).
"""

from __future__ import annotations

import torch

from limbeck.beds._mixture import Mixture
from limbeck.beds._points import points_bed, ring

TRUE = torch.arange(1.0, 9.0)
BELIEVED = TRUE * torch.tensor([1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 0.5, 1.0])

bed = points_bed(
    "mog8w",
    "eight unequal Gaussians, known exactly; the teacher's field is exact for a mixture with two weights wrong by 2",
    Mixture(TRUE, ring(8, 2.0), 0.15),
    Mixture(BELIEVED, ring(8, 2.0), 0.15),
)
