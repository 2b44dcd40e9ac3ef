"""Digits of 8 x 8 pixels to be drawn: a trained field of each class is the teacher, and the student starts as it.

The splits are those of `digits`, with pixels in [-1, 1]. A good classifier, which was never asked while the field was
trained, tells how well its class is drawn.

Legend of shapes: B rows, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import limbeck.assets
from limbeck.beds import Bed, load_bed
from limbeck.beds._nets import PointField
from limbeck.beds.digits import CLASSES, splits
from limbeck.data import Table
from limbeck.parts.solver import even, heun, ode_sample
from limbeck.parts.states import few_step
from limbeck.probes.distribution import energy_distance, sliced_w2
from limbeck.rng import derive

__all__ = ["TEACHER", "PictureField", "bed", "drawn_splits", "painter"]

PICTURES = frozenset({"x0", "eps", "velocity", "score", "sample"})
TEACHER = Path(limbeck.assets.__file__).parent / "digits-drawn-teacher" / "model.safetensors"


class PictureField(nn.Module):
    """A field of small pictures by a perceptron on their pixels; it answers what `PointField` does, and its layers.

    Args:
        shape: of a picture, (channels, height, width).
        width: units of each hidden layer.
        depth: hidden layers.
        classes: labels in the column y, where `classes` itself is no label; 0 for a net without condition.

    Example:
        >>> net = PictureField((1, 8, 8), width=16, depth=2, classes=10)
        >>> batch = {"x": torch.zeros(5, 1, 8, 8), "t": torch.ones(5), "y": torch.zeros(5, dtype=torch.int64)}
        >>> {want: tuple(a.shape) for want, a in sorted(net(batch, frozenset({"x0", "tap:trunk.1"})).items())}
        {'tap:trunk.1': (5, 16), 'x0': (5, 1, 8, 8)}
    """

    def __init__(self, shape: tuple[int, int, int], width: int = 256, depth: int = 4, classes: int = 0) -> None:
        super().__init__()
        self.shape, self.classes = shape, classes
        self.net = PointField(shape[0] * shape[1] * shape[2], width, depth, classes=classes)

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer what `PointField` does, on x (B, C, H, W)."""
        flat = {k: c.flatten(1) if k in ("x", "z") else c for k, c in batch.items() if isinstance(c, Tensor)}
        found = self.net(flat, want)
        return {k: a.unflatten(1, self.shape) if k in PICTURES else a for k, a in found.items() if k in want}


def painter(seed: int | None = None) -> PictureField:
    """The architecture of teacher, student and critic: as the teacher was trained, or fresh.

    Args:
        seed: of the fresh weights; None for those of the teacher.

    Returns:
        The net.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("digits drawn", seed))
        net = PictureField((1, 8, 8), classes=CLASSES)
    if seed is None:
        net.load_state_dict(load_file(TEACHER))
    return net


def _pixels(table: Table) -> Table:
    return Table({"x": 2 * table.columns["x"] - 1, "y": table.columns["y"]})  # type: ignore[operator, dict-item]


@lru_cache(maxsize=1)
def drawn_splits() -> Mapping[str, Table]:
    """The teacher's 1000 pictures as "train", and two parts that it has not seen; x (N, 1, 8, 8) in [-1, 1], y (N,)."""
    whole = splits()
    return {name: _pixels(whole[part]) for name, part in (("train", "pool"), ("valid", "valid"), ("test", "test"))}


bed = Bed(
    "digits_drawn",
    "Digits of 8 x 8 pixels and a field of each class, trained on 1000 of them; the student starts as the teacher.",
    players={who: lambda seed: painter() for who in ("teacher", "student", "critic")}
    | {"fresh": painter, "classifier": load_bed("digits").players["teacher"]},
    data=lambda seed: dict(drawn_splits()),
    probes={"energy": energy_distance(), "sw2": sliced_w2(rows=500)},
    samplers={"student": few_step(), "teacher": ode_sample(solver=heun(), times=even(25))},
)
