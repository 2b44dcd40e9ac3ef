"""Four objects of splats seen by eight cameras on a ring, and the exact field of what is seen of them from every other.

The field of a camera is that of a mixture of Gaussians around the pictures of every object from there, so that a scene
agrees with the teacher if it looks like one object from everywhere. The scene holds four particles of more splats than
an object has; the critic is a small net. A prompt is a view that the teacher knows, y = camera / 2.

The cameras of the teacher are for training, those between them for choosing and for the verdict: two each, of which one
faces the other. What is measured is whether a scene is an object, and not whether it has four right pictures.

Legend of shapes: V cameras, K objects, B rows.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from limbeck.beds import Bed
from limbeck.beds._mixture import ExactField
from limbeck.beds._scenes import Round, seeded
from limbeck.beds.digits_drawn import PictureField
from limbeck.beds.edit import LatentField
from limbeck.data import Table
from limbeck.parts.scene import Splats, ring_cameras
from limbeck.probes.scenes import reference_gap, references_reached

__all__ = ["bed", "objects", "teacher"]

CAMERAS, OBJECTS, PARTICLES, SIDE = 4, 4, 4, 12  # as many cameras again stand between them
SHAPE, STD = (3, SIDE, SIDE), 0.05


def objects(splats: int = 10) -> Splats:
    """The objects: clouds of splats of their own places, sizes and colours.

    Args:
        splats: of each.

    Returns:
        A scene with as many particles as there are objects.
    """
    rng = torch.Generator().manual_seed(7)
    made = Splats(ring_cameras(2 * CAMERAS), 0.8 * torch.rand(OBJECTS, splats, 3, generator=rng) - 0.4, 0.25, SIDE)
    with torch.no_grad():
        made.colour += 2 * torch.randn(OBJECTS, splats, 3, generator=rng)  # type: ignore[misc]
        made.log_size += 0.3 * torch.randn(OBJECTS, splats, generator=rng)  # type: ignore[misc]
        made.opacity += 1.0  # type: ignore[misc]
    return made


@lru_cache(maxsize=1)
def _pictures() -> tuple[Tensor, Tensor, Tensor]:
    """What is seen of every object from every camera, (2 K V, 3, H, W), and which camera and object each shows."""
    mode = torch.arange(OBJECTS).repeat_interleave(2 * CAMERAS)
    camera = torch.arange(2 * CAMERAS).repeat(OBJECTS)
    with torch.no_grad():
        return objects()({"camera": camera, "particle": mode}, frozenset({"x0"}))["x0"], camera, mode


def teacher(_seed: int) -> LatentField:
    """The exact field of what is seen from each of its cameras."""
    x, camera, _ = (v[::2] for v in _pictures())
    return LatentField(ExactField(Round(torch.ones(len(x)), x.flatten(1), STD), camera // 2), SHAPE)


def _rows() -> dict[str, Table]:
    x, camera, mode = _pictures()
    whole = {"x": x, "camera": camera, "y": camera // 2, "mode": mode}
    places = (("train", camera % 2 == 0), ("valid", camera % 4 == 1), ("test", camera % 4 == 3))
    return {split: Table({name: column[here] for name, column in whole.items()}) for split, here in places}


def _scene(seed: int) -> nn.Module:
    build = lambda: Splats(ring_cameras(2 * CAMERAS), 0.4 * torch.randn(PARTICLES, 24, 3), 0.25, SIDE)  # noqa: E731
    return seeded("splat", seed, build)


bed = Bed(
    "splat",
    "Four objects of splats: the field of their pictures from each camera is known in closed form.",
    players={
        "teacher": teacher,
        "scene": _scene,
        "critic": lambda seed: seeded("critic", seed, lambda: PictureField(SHAPE, 128, 3, classes=CAMERAS)),
    },
    data=lambda seed: _rows(),
    probes={"gap": reference_gap(), "reached": references_reached()},
)
