"""Eight Gaussians that have moved a little, and a student distilled to four steps before they did.

The student draws the eight modes of `mog8` well, sharply and in four steps; the data are the same modes, 0.3 further
along both axes. A reward likes one side of the circle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import limbeck.assets
from limbeck.beds._mixture import Mixture
from limbeck.beds._nets import PointField, fresh
from limbeck.beds._points import points_bed, ring
from limbeck.parts.states import few_step

__all__ = ["STUDENT", "TIMES", "Likes", "bed", "distilled"]

STUDENT = Path(limbeck.assets.__file__).parent / "mog8-few-student" / "model.safetensors"
TIMES = (1.0, 0.75, 0.5, 0.25)


class Likes(nn.Module):
    """A reward that likes one direction in the plane.

    r(x) = x_1 / |x|

    Example:
        >>> Likes()({"x": torch.tensor([[0.0, 2.0], [3.0, 0.0]])}, frozenset({"reward"}))["reward"].tolist()
        [0.0, 1.0]
    """

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "reward" (B,) on x (B, 2)."""
        x = batch["x"]
        return {"reward": x[:, 0] / x.norm(dim=1).clamp(min=1e-6)}


def distilled() -> PointField:
    """The student as it was distilled: a consistency function of the flow of `mog8`."""
    net = fresh(0, 2)
    net.load_state_dict(load_file(STUDENT), strict=False)  # frequencies are not stored
    return net


moved = points_bed(
    "mog8_moved",
    "eight Gaussians that moved after the student was distilled to four steps; their new law is known",
    Mixture(torch.ones(8), ring(8, 2.0) + 0.3, 0.15),
)
bed = replace(
    moved,
    players=dict(moved.players) | {"student": lambda seed: distilled(), "reward": lambda seed: Likes()},
    probes={name: probe.child("draw", few_step(times=TIMES)) for name, probe in moved.probes.items()},
    samplers=dict(moved.samplers) | {"student": few_step(times=TIMES)},
)
