"""The modes of data whose rows say to which of them they belong, and which of them samples lie in.

The numbers of modes are names: any may be missing from the rows that are looked at. A mode without rows has no mean; it
is not there, so that nothing is nearest to it and no share is due to it.

Shapes: N samples, M data, D coordinates, K modes that have rows, in the order of their numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mode_means", "nearest_mode"]

NEAR = 3.0  # standard deviations


def mode_means(y: Tensor, mode: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The means of rows over those of the same mode.

    m_k = sum_{i in k} y_i / n_k

    Args:
        y: (M, D).
        mode: (M,) int64 numbers, in which there may be gaps.

    Returns:
        The means (K, D), which of them each row belongs to (M,), and how many rows each has (K,) in the type of y.

    Example:
        >>> means, member, count = mode_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([7, 2, 7]))
        >>> means.tolist(), member.tolist(), count.tolist()
        ([[3.0], [3.0]], [1, 0, 1], [1.0, 2.0])
    """
    member = mode.unique(return_inverse=True)[1]
    each = torch.nn.functional.one_hot(member).to(y)
    count = each.sum(0)
    return each.T @ y / count[:, None], member, count


def nearest_mode(x: Tensor, y: Tensor, mode: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The mode that each sample is nearest to, and whether it lies in it.

    k_i = argmin_k |x_i - m_k|, near where |x_i - m_k| <= 3 s_k, s_k^2 the variance of mode k in a coordinate

    Args:
        x: (N, D) samples.
        y: (M, D) data.
        mode: (M,) int64, the modes of the data.

    Returns:
        The nearest mode of each sample (N,), counted among those that have rows; whether it is near (N,); which of them
        each datum belongs to (M,); and the share of the data in each (K,).

    Example:
        >>> y, mode = torch.tensor([[-1.0], [1.0], [9.0], [11.0]]), torch.tensor([0, 0, 5, 5])
        >>> nearest, near, _, share = nearest_mode(torch.tensor([[0.0], [14.0]]), y, mode)
        >>> nearest.tolist(), near.tolist(), share.tolist()
        ([0, 1], [True, False], [0.5, 0.5])
    """
    means, member, count = mode_means(y, mode)
    square, _, _ = mode_means((y - means[member]).square().mean(1, keepdim=True), mode)
    distance, nearest = torch.cdist(x, means).min(1)
    return nearest, distance <= NEAR * square[nearest, 0].sqrt(), member, count / count.sum()
