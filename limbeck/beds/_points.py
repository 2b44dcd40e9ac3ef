"""Beds of points: one factory for mixtures of Gaussians, laid out in rings or grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from limbeck.beds import Bed
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.beds._nets import fresh
from limbeck.data import Table
from limbeck.parts.flowmap import any_step
from limbeck.parts.states import few_step
from limbeck.probes.distribution import mmd, mode_quality, mode_recall, sliced_w2
from limbeck.rng import derive

__all__ = ["grid", "points_bed", "ring"]

FLOW = any_step(times=tuple(1 - i / 64 for i in range(65)))  # with an exact field, as near to the data as data are
SPLITS: Mapping[str, int] = {"train": 5_000, "valid": 10_000, "test": 10_000}


def ring(modes: int, radius: float) -> Tensor:
    """Means on a circle, (modes, 2), anticlockwise from (radius, 0).

    Example:
        >>> ring(2, 3.0).round().tolist()
        [[3.0, 0.0], [-3.0, -0.0]]
    """
    angle = torch.arange(modes) * (2 * math.pi / modes)
    return radius * torch.stack((angle.cos(), angle.sin()), 1)


def grid(side: int, spacing: float) -> Tensor:
    """Means on a square lattice around the origin, (side^2, 2).

    Example:
        >>> grid(2, 1.0).tolist()
        [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    """
    axis = spacing * (torch.arange(side) - (side - 1) / 2)
    return torch.cartesian_prod(axis, axis)


def points_bed(
    key: str, about: str, truth: Mixture, teacher: Mixture | None = None, labels: Tensor | None = None
) -> Bed:
    """Make a bed of a mixture: samples, exact fields and fresh nets.

    The players: `oracle`, the exact field of the data; `teacher`, the same unless it is given; `student` and `critic`,
    fresh nets of equal architecture. The splits hold x (B, D) and mode (B,).

    Args:
        key: the key of the bed.
        about: what is known exactly.
        truth: the data.
        teacher: what the teacher believes the data to be.
        labels: (K,) the class of each mode; the splits then have a column y, and all nets are conditional.

    Returns:
        The bed.
    """
    dim = truth.means.shape[1]
    classes = 0 if labels is None else int(labels.max()) + 1

    def draw(split: str, seed: int) -> Table:
        x, mode = truth.sample(SPLITS[split], derive("points", split, seed))
        return Table({"x": x, "mode": mode} | ({} if labels is None else {"y": labels[mode]}))

    def exact(mixture: Mixture) -> Callable[[int], nn.Module]:
        return lambda seed: ExactField(mixture, labels)

    return Bed(
        key,
        about,
        players={
            "oracle": exact(truth),
            "teacher": exact(teacher or truth),
            "student": lambda seed: fresh(derive("student", seed), dim, classes=classes),
            "critic": lambda seed: fresh(derive("critic", seed), dim, classes=classes),
        },
        data=lambda seed: {split: draw(split, seed) for split in SPLITS},
        probes={"sw2": sliced_w2(), "mmd": mmd(), "recall": mode_recall(), "quality": mode_quality()},
        samplers={"student": few_step(), "teacher": FLOW},
    )
