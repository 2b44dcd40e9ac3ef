"""Small field nets for points.

Shapes: B rows, D coordinates, F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.rng import derive

__all__ = ["PointField", "fresh"]


class PointField(nn.Module):
    """A field of points by a multilayer perceptron that predicts the velocity of the rectified-flow path.

    v(x_t, t);  x0 = x_t - t v,  e = x_t + (1 - t) v,  score = -e / t

    It is a flow map too: with a column s the velocity is the average one on the way from t down to s. Without it the
    net answers for s = 0, so that x0 is then the end of the way.

    Args:
        dim: D.
        width: units of each hidden layer.
        depth: hidden layers.
        waves: frequencies at which the level is read.
        classes: labels in the column y, where `classes` itself is no label; 0 for a net without condition.
        scales: read a guidance scale in the column w.

    Example:
        >>> net = PointField(2)
        >>> net({"x": torch.zeros(5, 2), "t": torch.ones(5)}, frozenset({"x0"}))["x0"].shape
        torch.Size([5, 2])
    """

    frequencies: Tensor

    def __init__(
        self, dim: int, width: int = 128, depth: int = 3, waves: int = 8, classes: int = 0, scales: bool = False
    ) -> None:
        super().__init__()
        sizes = [dim + 2 * waves + (classes and classes + 1) + scales, *[width] * depth]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SiLU())]
        self.trunk, self.out = nn.Sequential(*layers), nn.Linear(width, dim)
        self.classes, self.scales = classes, scales
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.linspace(-1, 3, waves), persistent=False)

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0", "eps", "velocity", "score" and "features" on x (B, D), t, s, y, w (B,); "sample" on z (B, D).

        "tap:trunk.<i>" is what layer i of the trunk gives.
        """
        out: dict[str, Any] = {}
        if want - {"sample"}:
            x, t = batch["x"], batch["t"].to(batch["x"].dtype)[:, None]
            layers = self._layers(x, t, batch)
            out = {f"tap:trunk.{i}": h for i, h in enumerate(layers)} | {"features": layers[-1]}
            if want - out.keys() - {"sample"}:
                out["velocity"] = self.out(out["features"])
            if want & {"x0", "eps", "score"}:
                out |= _answers(out["velocity"], x, t)
        if "sample" in want:
            z = batch["z"]
            out["sample"] = z - self.out(self._layers(z, torch.ones_like(z[:, :1]), batch)[-1])
        return out

    def _layers(self, x: Tensor, t: Tensor, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """What each layer of the trunk gives."""
        angle = t * self.frequencies
        columns = [x, angle.sin(), angle.cos()]
        if "s" in batch:
            # adds nothing at s = 0, and on 0 <= s <= t the lowest frequency alone still tells every pair (t, s)
            ahead = batch["s"].to(x.dtype)[:, None] * self.frequencies
            columns = [x, columns[1] + ahead.sin(), columns[2] + 1 - ahead.cos()]
        if self.classes:
            columns.append(nn.functional.one_hot(batch["y"], self.classes + 1).to(x.dtype))
        if self.scales:
            columns.append(batch["w"].to(x.dtype)[:, None].log() if "w" in batch else torch.zeros_like(t))
        found = [torch.cat(columns, 1)]
        for layer in self.trunk:
            found.append(layer(found[-1]))
        return found[1:]


def _answers(v: Tensor, x: Tensor, t: Tensor) -> dict[str, Tensor]:
    """The other parametrisations of a field from its velocity."""
    eps = x + (1 - t) * v
    return {"x0": x - t * v, "eps": eps, "score": -eps / t}


def fresh(seed: int, *shape: Any, **more: Any) -> PointField:
    """Build a point field whose initial weights are a function of the seed alone.

    Args:
        seed: any integer.
        shape: dim, width, depth and so on, as `PointField` takes them.
        more: the same by name.

    Returns:
        The net.

    Example:
        >>> bool((fresh(1, 2).out.weight == fresh(1, 2).out.weight).all())
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("point field", seed))
        return PointField(*shape, **more)
