"""Distances between two answers, from their difference: parts `(difference)`, one number a row.

Shapes: B rows; a datum has any shape, d coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.part import part

__all__ = ["huber_each", "pseudo_huber", "squared"]


@part
def squared(difference: Tensor) -> Tensor:
    """The squared distance.

    |r|^2

    Args:
        difference: r, (B, ...).

    Returns:
        (B,).

    Example:
        >>> squared()(torch.tensor([[3.0, 4.0]]))
        tensor([25.])
    """
    return difference.square().flatten(1).sum(1)


def turned(square: Tensor, turn: float) -> Tensor:
    """The root of a square, rounded off where it is small: sqrt(r^2 + c^2) - c; its slope at r = 0 is 0, at c = 0 too.

    Args:
        square: r^2, of any shape.
        turn: c, in units of r.

    Returns:
        In the shape of the square.

    Example:
        >>> turned(torch.tensor([9.0]), 4.0)
        tensor([1.])
    """
    return (square + turn**2).clamp(min=torch.finfo(square.dtype).tiny).sqrt() - turn


@part
def pseudo_huber(difference: Tensor, *, c: float = 0.00054) -> Tensor:
    """A distance that is square near 0 and straight far away, so that single large errors do not rule.

    sqrt(|r|^2 + c^2 d) - c sqrt(d)

    Args:
        difference: r, (B, ...).
        c: where it turns, a coordinate, in units of the data.

    Returns:
        (B,).

    Example:
        >>> pseudo_huber(c=0.0)(torch.tensor([[3.0, 4.0]])), pseudo_huber(c=1.0)(torch.zeros(1, 4))
        (tensor([5.]), tensor([0.]))

    Source: Song and Dhariwal, arXiv:2310.14189, the pseudo-Huber distance.
    """
    return turned(squared.fn(difference), c * difference[0].numel() ** 0.5)


@part
def huber_each(difference: Tensor, *, c: float = 0.001) -> Tensor:
    """The pseudo-Huber distance of each coordinate by itself, and their mean.

    mean_j sqrt(r_j^2 + c^2) - c

    Args:
        difference: r, (B, ...).
        c: where it turns, in units of the data.

    Returns:
        (B,).

    Example:
        >>> huber_each(c=0.0)(torch.tensor([[3.0, -5.0]]))
        tensor([4.])

    Source: Song and Dhariwal, arXiv:2310.14189, the pseudo-Huber distance, as latent models use it.
    """
    return turned(difference.square(), c).flatten(1).mean(1)
