"""A red ball among other things, of which a blue block is to be made; pictures are latents, the teacher is exact.

What an object among known backgrounds looks like is a mixture of Gaussians around the pictures of each of them, from
each camera, so the field of every prompt is known. The scene to be edited has a background that the teacher has never
seen. What the edit should give is known too: the new object before the scene's own background.

A prompt is a view of an object: y = camera for the ball, cameras + camera for the block. A latent is a fixed linear
code of a picture, four channels at half its resolution.

Legend of shapes: V cameras, K backgrounds, B rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.beds import Bed
from limbeck.beds._mixture import ExactField
from limbeck.beds._scenes import Blobs, Round, seeded
from limbeck.data import Table
from limbeck.parts.radiance import Radiance
from limbeck.parts.scene import Splats, ring_cameras

__all__ = ["LatentField", "bed", "encode", "pictures", "teacher"]

CAMERAS, BACKGROUNDS, SIDE, CHANNELS, SPLATS = 8, 4, 16, 4, 64  # as many cameras again stand between them
STD, THINGS = 0.1, 6
SHAPE = (CHANNELS, SIDE // 2, SIDE // 2)
BALL, BLOCK = (0.2, 20.0, (0.9, 0.1, 0.1)), (0.25, 20.0, (0.1, 0.2, 0.9))


def encode(picture: Tensor) -> Tensor:
    """A fixed linear code of pictures (B, 3, H, W): a convolution of stride 2 with four orthonormal filters.

    Example:
        >>> encode(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 4, 8, 8])
    """
    filters = torch.linalg.qr(torch.randn(12, CHANNELS, generator=torch.Generator().manual_seed(0)))[0]
    return nn.functional.conv2d(picture, filters.T.reshape(CHANNELS, 3, 2, 2).to(picture), stride=2)


def _scene(background: int, thing: tuple[float, float, tuple[float, float, float]] | None) -> Blobs:
    """An object in the middle, or none, before things that lie around it."""
    rng = torch.Generator().manual_seed(100 + background)
    turn = torch.rand(THINGS, generator=rng) * 6.3
    around = torch.stack((0.75 * turn.cos(), 0.8 * torch.rand(THINGS, generator=rng) - 0.4, 0.75 * turn.sin()), 1)
    size, density, colour = thing or (0.3, 0.0, (0.5, 0.5, 0.5))
    return Blobs(
        torch.cat((torch.zeros(1, 3), around)),
        torch.cat((torch.tensor([size]), 0.12 + 0.1 * torch.rand(THINGS, generator=rng))),
        torch.cat((torch.tensor([density]), 10 + 20 * torch.rand(THINGS, generator=rng))),
        torch.cat((torch.tensor([colour]), torch.rand(THINGS, 3, generator=rng))),
    )


@lru_cache(maxsize=32)
def pictures(background: int, thing: tuple[float, float, tuple[float, float, float]] | None) -> Tensor:
    """What every camera sees, (2 V, 3, H, W): every other one is known to the teacher."""
    seen = Radiance(nn.Identity(), _scene(background, thing), ring_cameras(2 * CAMERAS), SIDE, 48)
    return seen({"camera": torch.arange(2 * CAMERAS)}, frozenset({"x0"}))["x0"]


class LatentField(nn.Module):
    """An exact field of latents as pictures instead of vectors.

    Args:
        field: answers on vectors x (B, D).
        shape: of a picture, (C, H, W).
    """

    def __init__(self, field: ExactField, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.field, self.shape, self.classes = field, shape, field.classes

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0", "eps", "velocity" and "score" on x (B, C, H, W), t, y (B,)."""
        flat = self.field(dict(batch) | {"x": batch["x"].flatten(1)}, want)
        return {k: a.unflatten(1, self.shape) for k, a in flat.items()}


@lru_cache(maxsize=1)
def _prior() -> tuple[Round, Tensor]:
    """The mixture around the latents of every object, background and camera, and the prompt of each mode."""
    known = [(encode(pictures(k, thing)[::2]), i) for i, thing in enumerate((BALL, BLOCK)) for k in range(BACKGROUNDS)]
    means = torch.cat([latents for latents, _ in known]).flatten(1)
    labels = torch.cat([torch.arange(CAMERAS) + i * CAMERAS for _, i in known])
    return Round(torch.ones(len(means)), means, STD), labels


def teacher(_seed: int) -> LatentField:
    """The exact field of latents of either object from each camera."""
    return LatentField(ExactField(*_prior()), SHAPE)


def _rows(background: int) -> dict[str, Table]:
    """A scene to edit: x before, `edited` what it should become, and the region of either object.

    The cameras of the teacher are for training, those between them for choosing and for the verdict.
    """
    before, after, empty = (encode(pictures(background, thing)) for thing in (BALL, BLOCK, None))
    changed = ((before - empty).abs() + (after - empty).abs()).amax(1, keepdim=True) > 0.15
    camera = torch.arange(2 * CAMERAS)
    region = changed.to(before).expand_as(before).contiguous()
    columns = {"x": before, "edited": after, "region": region, "camera": camera, "y": camera // 2}
    whole = Table(columns | {"target": CAMERAS + camera // 2})
    return {s: Table(whole.take(camera[a::b])) for s, a, b in (("train", 0, 2), ("valid", 1, 4), ("test", 3, 4))}


def _splats(seed: int) -> nn.Module:
    def build() -> Splats:
        place = 0.5 * torch.randn(1, SPLATS, 3)
        return Splats(ring_cameras(2 * CAMERAS), place, 0.2, SIDE // 2, latents=CHANNELS)

    return seeded("edit", seed, build)


bed = Bed(
    "edit",
    "Latents of a scene with a ball, the exact field of balls and blocks, and what the edited scene should be.",
    players={"teacher": teacher, "scene": _splats},
    data=lambda seed: _rows(BACKGROUNDS + seed),
)
