"""Volume distillation: one kind of radiance field learns from another along rays of random poses.

Both are asked at the same points, block by block: for features, for density and colour, for the colour of the ray.

Shapes: B rows, R rays a row, S samples along a ray.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from limbeck.batch import Batch
from limbeck.errors import Mismatch
from limbeck.part import part
from limbeck.players import Players

__all__ = ["density_matching", "picture_matching", "random_rays", "ray_matching", "volume_matching"]


@part
def random_rays(players: Players, batch: Batch) -> Batch:
    """Look from a random pose in each row: no picture is needed.

    d = z / |z|, z ~ N(0, I); the ray passes a point u1 a + u2 b, u ~ U(-1, 1)^2, of the plane across d

    Args:
        players: not asked.
        batch: the rows.

    Returns:
        The batch with the column `ray` (B, 6): a point and a direction of length one.

    Source: Fang et al., arXiv:2211.15977, data from random poses.
    """
    ahead = normalize(batch.rng.normal("direction", 3), dim=1)
    right = normalize(torch.linalg.cross(ahead, batch.rng.normal("roll", 3)), dim=1)
    u = 2 * batch.rng.uniform("pixel", 2) - 1
    point = u[:, :1] * right + u[:, 1:] * torch.linalg.cross(ahead, right)
    dtype = batch.x.dtype if batch.x.is_floating_point() else ahead.dtype
    return batch.with_(ray=torch.cat((point, ahead), 1).to(dtype))


def _both(players: Players, batch: Batch, of: str) -> tuple[Tensor, Tensor]:
    """What student and teacher say at the samples."""
    student, teacher = players.student(batch, of), players.teacher(batch, of)
    if student.shape != teacher.shape:
        raise Mismatch(
            f"student and teacher give {of!r} of shapes {tuple(student.shape)} and {tuple(teacher.shape)}; "
            "volume distillation needs blocks of one size"
        )
    return student, teacher


@part
def volume_matching(players: Players, batch: Batch, *, of: str = "features") -> Tensor:
    """Match what student and teacher say at the samples along rays.

    mean_rs |student_rs - teacher_rs|^2, of features or colour

    Args:
        players: student and teacher answer `of`, (B, R, S, ...).
        batch: rows with rays or cameras.
        of: which answer.

    Returns:
        (B,).

    Raises:
        Mismatch: features of different sizes.

    Source: Fang et al., arXiv:2211.15977, the losses of features and colour.
    """
    student, teacher = _both(players, batch, of)
    return (student - teacher).square().flatten(1).mean(1)


@part
def density_matching(players: Players, batch: Batch, *, low: float = -2.0, high: float = 7.0) -> Tensor:
    """Match the density at the samples along rays, as far as it can be told in a picture.

    mean_rs (clip(student_rs) - clip(teacher_rs))^2, of the logarithms of density

    Args:
        players: student and teacher answer "density", (B, R, S), before the exponential.
        batch: rows with rays or cameras.
        low: what is emptier counts as this.
        high: what is denser counts as this.

    Returns:
        (B,).

    Raises:
        Mismatch: different numbers of samples.

    Source: Fang et al., arXiv:2211.15977, the loss of density; bounds from its public code.
    """
    student, teacher = (raw.clamp(low, high) for raw in _both(players, batch, "density"))
    return (student - teacher).square().flatten(1).mean(1)


@part
def ray_matching(players: Players, batch: Batch) -> Tensor:
    """Match the colour of rays.

    mean |C_student - C_teacher|^2

    Args:
        players: student and teacher answer "x0".
        batch: rows with rays or cameras.

    Returns:
        (B,).

    Source: Fang et al., arXiv:2211.15977, the loss of rendered rays.
    """
    return (players.student(batch, "x0") - players.teacher(batch, "x0")).square().flatten(1).mean(1)


@part
def picture_matching(players: Players, batch: Batch) -> Tensor:
    """Match pictures, or the pixels of rays, as data: how a radiance field learns without a teacher.

    mean |C_student - x|^2

    Args:
        players: the student answers "x0".
        batch: rows with rays or cameras, and what is seen in x.

    Returns:
        (B,).

    Source: Mildenhall et al., arXiv:2003.08934, the loss of rendered rays.
    """
    return (players.student(batch, "x0") - batch.x).square().flatten(1).mean(1)
