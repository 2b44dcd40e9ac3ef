"""The digits of `digits_drawn`, with a teacher that also knows what bad pictures look like: its last class.

What a negative prompt ("blurry, low quality") is to a large model, a class of blurred and noisy pictures is here. The
field of that class is the teacher itself, tuned for a second on spoilt pictures of its own training rows, so that both
err alike elsewhere.

Legend of shapes: B rows, N pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from limbeck.beds import Bed, load_bed
from limbeck.beds.digits import CLASSES
from limbeck.beds.digits_drawn import drawn_splits, painter
from limbeck.rng import Rng

__all__ = ["Flawed", "bed", "spoilt", "teacher"]

FLAWED, NONE = CLASSES, CLASSES + 1


def spoilt(x: Tensor, rng: Rng) -> Tensor:
    """Blur pictures over 3 x 3 pixels and add noise of deviation 0.2.

    Args:
        x: (N, 1, 8, 8).
        rng: the streams of the pictures.

    Returns:
        (N, 1, 8, 8).

    Example:
        >>> spoilt(torch.zeros(2, 1, 8, 8), Rng((), torch.arange(2))).shape
        torch.Size([2, 1, 8, 8])
    """
    return avg_pool2d(x, 3, 1, 1, count_include_pad=False) + 0.2 * rng.normal("spoil", *x.shape[1:])


class Flawed(nn.Module):
    """A field of eleven classes, of which the last is that of bad pictures; y = 11 is no class.

    Args:
        good: the field of the ten digits and of none.
        bad: the field of bad pictures, asked without a class.
    """

    def __init__(self, good: nn.Module, bad: nn.Module) -> None:
        super().__init__()
        self.good, self.bad, self.classes = good, bad, NONE

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0", "eps", "velocity" and "score" on x (B, 1, 8, 8), t, y (B,)."""
        columns, flawed = dict(batch), batch["y"] == FLAWED
        out: dict[str, Any] = self.good(columns | {"y": batch["y"].clamp(max=CLASSES)}, want)
        if bool(flawed.any()):
            bad = self.bad(columns | {"y": torch.full_like(batch["y"], CLASSES)}, want)
            out = {k: torch.where(flawed.view(-1, 1, 1, 1), bad[k], a) for k, a in out.items()}
        return out


@lru_cache(maxsize=1)
def _bad_field(steps: int = 120, rows: int = 128) -> nn.Module:
    """The teacher, tuned on spoilt pictures by matching their flow."""
    x, net = drawn_splits()["train"].columns["x"], deepcopy(painter())
    assert isinstance(x, Tensor)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    with torch.enable_grad():
        for step in range(steps):
            rng = Rng(("flawed", step), torch.arange(rows))
            x0, noise = spoilt(x[rng.integers("row", len(x)).view(-1)], rng), rng.normal("noise", *x.shape[1:])
            t = rng.normal("level").view(-1).sigmoid()
            level = t.view(-1, 1, 1, 1)
            seen = {"x": (1 - level) * x0 + level * noise, "t": t, "y": torch.full((rows,), CLASSES)}
            loss = (net(seen, frozenset({"velocity"}))["velocity"] - (noise - x0)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval().requires_grad_(False)


def teacher(_seed: int) -> Flawed:
    """The field of the ten digits, of bad pictures and of none; the same for every seed."""
    return Flawed(painter(), deepcopy(_bad_field()))


bed = Bed(
    "digits_flawed",
    "Digits of 8 x 8 pixels, a trained field of each class, of none and of blurred and noisy pictures.",
    players={"teacher": teacher, "classifier": load_bed("digits").players["teacher"]},
    data=lambda seed: dict(drawn_splits()),
)
