"""Radiance fields of several kinds, and the rays along which they are looked at.

A field is two blocks: the first turns a point of [-1, 1]^3 into features, the second features into density and colour.
Only the first differs between kinds: a grid, waves and a perceptron, a low-rank tensor. `Radiance` marches rays through
either and answers at every stage of the way, so that one kind can be taught what another knows.

Shapes: B rows, R rays a row, S samples along a ray, F features, n nodes along an axis, r the rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from limbeck.parts.scene import SEEN, composite, pixel_grid, seen_column

__all__ = ["GridFeatures", "Radiance", "TensorFeatures", "WaveFeatures", "decoder"]

REACH = math.sqrt(3.0)  # from the origin to a corner of the cube
DENSEST = 15.0  # of a raw density, before exp overflows


class GridFeatures(nn.Module):
    """Features at the nodes of a regular grid, linear between them.

    Args:
        features: F.
        nodes: n.

    Example:
        >>> GridFeatures(4, 8)(torch.zeros(5, 3)).shape
        torch.Size([5, 4])

    Source: Sun et al., "Direct Voxel Grid Optimization", arXiv:2111.11215.
    """

    def __init__(self, features: int, nodes: int) -> None:
        super().__init__()
        self.nodes = nn.Parameter(0.1 * torch.randn(1, features, nodes, nodes, nodes))

    def forward(self, points: Tensor) -> Tensor:
        """(N, 3) to (N, F)."""
        place = points.flip(-1).view(1, -1, 1, 1, 3)  # grid_sample counts axes from the last
        return grid_sample(self.nodes, place, align_corners=True, padding_mode="border")[0, :, :, 0, 0].T


class WaveFeatures(nn.Module):
    """A perceptron on sines and cosines of a point.

    Args:
        features: F.
        width: units of a hidden layer.
        depth: hidden layers.
        waves: octaves, from half a wave over the cube.

    Example:
        >>> WaveFeatures(4, 16, 2, 3)(torch.zeros(5, 3)).shape
        torch.Size([5, 4])

    Source: Mildenhall et al., arXiv:2003.08934, positional encoding.
    """

    frequencies: Tensor

    def __init__(self, features: int, width: int = 64, depth: int = 3, waves: int = 4) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(waves), persistent=False)
        sizes = [3 + 6 * waves, *[width] * depth]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Linear(width, features))

    def forward(self, points: Tensor) -> Tensor:
        """(N, 3) to (N, F)."""
        angle = (points[..., None] * self.frequencies).flatten(-2)
        return self.net(torch.cat((points, angle.sin(), angle.cos()), -1))  # type: ignore[no-any-return]


class TensorFeatures(nn.Module):
    """A low-rank tensor: products of one line along each axis, mixed into features (canonical polyadic form).

    Args:
        features: F.
        rank: r.
        nodes: n.

    Example:
        >>> TensorFeatures(4, 8, 16)(torch.zeros(5, 3)).shape
        torch.Size([5, 4])

    Source: Chen et al., "TensoRF", arXiv:2203.09517.
    """

    def __init__(self, features: int, rank: int, nodes: int) -> None:
        super().__init__()
        self.lines = nn.Parameter(0.5 + 0.2 * torch.randn(3, rank, nodes))
        self.mix = nn.Linear(rank, features)

    def forward(self, points: Tensor) -> Tensor:
        """(N, 3) to (N, F)."""
        at = (points.clamp(-1, 1) + 1) / 2 * (self.lines.shape[-1] - 1)
        low = at.detach().floor().long().clamp(0, self.lines.shape[-1] - 2)
        share = (at - low)[..., None]
        ends = [torch.stack([self.lines[d].T[low[:, d] + i] for d in range(3)], 1) for i in (0, 1)]
        return self.mix((ends[0] * (1 - share) + ends[1] * share).prod(1))  # type: ignore[no-any-return]


def decoder(features: int, width: int = 32) -> nn.Sequential:
    """The second block: features to raw density and raw colour.

    Args:
        features: F.
        width: hidden units.

    Returns:
        A net from (N, F) to (N, 4).

    Example:
        >>> decoder(6)(torch.zeros(2, 6)).shape
        torch.Size([2, 4])
    """
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 4))


class Radiance(nn.Module):
    """A field looked at along rays: from a camera as a picture (3, H, W), or along one ray a row as a colour (3,).

    sigma = exp(raw), alpha = 1 - exp(-sigma delta) inside the cube and 0 outside, blended from front to back on black

    The column `ray` (B, 6), a point and a direction of length one, comes before `camera` (B,).

    Args:
        first: points (N, 3) to features (N, F).
        second: features to raw density and colour (N, 4).
        cameras: (V, 3, 3) rotations with the rows right, up, ahead.
        side: H = W.
        samples: S, the middles of equal pieces of the way through the ball around the cube.

    Example:
        >>> from limbeck.parts.scene import ring_cameras
        >>> scene = Radiance(GridFeatures(4, 8), decoder(4), ring_cameras(2), 8)
        >>> scene({"camera": torch.tensor([0, 1, 1])}, frozenset({"x0"}))["x0"].shape
        torch.Size([3, 3, 8, 8])

    Source: Mildenhall et al., arXiv:2003.08934, volume rendering.
    """

    cameras: Tensor
    pixels: Tensor
    particles = 1

    def __init__(self, first: nn.Module, second: nn.Module, cameras: Tensor, side: int, samples: int = 16) -> None:
        super().__init__()
        self.first, self.second, self.side, self.samples = first, second, side, samples
        self.register_buffer("cameras", cameras, persistent=False)
        self.register_buffer("pixels", pixel_grid(side), persistent=False)

    def rays(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Points and directions of the rays of each row, (B, R, 3) each."""
        if "ray" in batch:
            return batch["ray"][:, None, :3], batch["ray"][:, None, 3:]
        turn = self.cameras[seen_column(batch, "camera", self.cameras.device)]
        points = self.pixels @ turn[:, :2]
        return points, turn[:, 2:].expand_as(points)

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0", "sample"; at the samples "features" (B, R, S, F), raw "density" and "colour" (B, R, S, 3)."""
        point, ahead = self.rays(batch)
        middle = (2 * torch.arange(self.samples, device=point.device) + 1) / self.samples - 1
        points = point[:, :, None] + REACH * middle.to(point)[:, None] * ahead[:, :, None]
        features = self.first(points.flatten(0, 2))
        out: dict[str, Any] = {"features": features.view(*points.shape[:3], -1)}
        if want - {"features"}:
            raw = self.second(features).view(*points.shape[:3], 4)
            out |= {"density": raw[..., 0], "colour": raw[..., 1:].sigmoid()}
        if want & SEEN:
            inside = (points.abs() <= 1).all(-1)
            alpha = -torch.expm1(-out["density"].clamp(max=DENSEST).exp() * (2 * REACH / self.samples)) * inside
            shown = composite(alpha, out["colour"])[0]
            shown = shown[:, 0] if "ray" in batch else shown.mT.unflatten(-1, (self.side, self.side))
            out |= dict.fromkeys(want & SEEN, shown)
        return out
