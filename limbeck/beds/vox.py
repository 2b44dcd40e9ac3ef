"""Sixteen blobs in a cube, seen along rays; the teacher is their field in closed form, the student an empty grid.

The teacher has two blocks as trained fields have: features, here what the blobs say of a point, turned into eight
numbers, and what turns them back into density and colour. The training rows are the pixels of eight cameras on a ring,
the others those of cameras above and below it. Students of other kinds are there too: `waves` and `tensor`.

Legend of shapes: B rows, R rays.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from limbeck.beds import Bed
from limbeck.beds._scenes import Blobs, seeded
from limbeck.data import Table
from limbeck.parts.radiance import GridFeatures, Radiance, TensorFeatures, WaveFeatures, decoder
from limbeck.parts.scene import ring_cameras
from limbeck.probes.scenes import psnr

__all__ = ["bed", "closed_form", "truth"]

BLOBS, FEATURES, NODES, SIDE, SAMPLES = 16, 8, 24, 16, 32
RINGS = {"train": (8, 0.4), "valid": (3, -0.2), "test": (6, 0.8)}


def truth() -> Blobs:
    """Sixteen small blobs of many colours, scattered over the cube."""
    rng = torch.Generator().manual_seed(4)
    centres = 1.3 * torch.rand(BLOBS, 3, generator=rng) - 0.65
    sizes = 0.09 + 0.08 * torch.rand(BLOBS, generator=rng)
    return Blobs(centres, sizes, 40 * torch.rand(BLOBS, generator=rng), torch.rand(BLOBS, 3, generator=rng))


def closed_form() -> Radiance:
    """The blobs as a radiance field of two blocks, seen by the training cameras."""
    mix = torch.linalg.qr(torch.randn(FEATURES, 4, generator=torch.Generator().manual_seed(0)))[0]
    there, back = nn.Linear(4, FEATURES, bias=False), nn.Linear(FEATURES, 4, bias=False)
    with torch.no_grad():
        there.weight.copy_(mix)
        back.weight.copy_(mix.T)
    return Radiance(nn.Sequential(truth(), there), back, ring_cameras(*RINGS["train"]), SIDE, SAMPLES)


def _student(first: str, seed: int) -> nn.Module:
    kinds = {
        "waves": lambda: WaveFeatures(FEATURES),
        "grid": lambda: GridFeatures(FEATURES, NODES),
        "tensor": lambda: TensorFeatures(FEATURES, 16, NODES),
    }
    net = lambda: Radiance(kinds[first](), decoder(FEATURES), ring_cameras(*RINGS["train"]), SIDE, SAMPLES)  # noqa: E731
    return seeded(first, seed, net)


@lru_cache(maxsize=1)
def _pixels() -> dict[str, Table]:
    """What is seen of the blobs along the rays of each split's cameras."""
    out = {}
    for split, (count, elevation) in RINGS.items():
        seen = Radiance(nn.Identity(), truth(), ring_cameras(count, elevation), SIDE, 96)
        point, ahead = (v.flatten(0, 1) for v in seen.rays({"camera": torch.arange(count)}))
        ray = torch.cat((point, ahead), 1)
        out[split] = Table({"x": seen({"ray": ray}, frozenset({"x0"}))["x0"], "ray": ray})
    return out


bed = Bed(
    "vox",
    "Sixteen blobs whose density and colour are known in closed form, and untrained fields of several kinds.",
    players={
        "teacher": lambda seed: closed_form(),
        "student": lambda seed: _student("grid", seed),
        "waves": lambda seed: _student("waves", seed),
        "tensor": lambda seed: _student("tensor", seed),
    },
    data=lambda seed: dict(_pixels()),
    probes={"psnr": psnr()},
)
