"""Losses of the log-probability of one said token, whose value and derivative are told: a pair.

Shapes: N rows, V tokens.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.parts.divergence import log_probs

__all__ = ["said_pair"]


def said_pair(student: Tensor, token: Tensor, value: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Any value (N,) with the derivative slope_n d log q(y_n), of logits (N, V) and tokens y (N,).

    Example:
        >>> import torch
        >>> said_pair(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([3.0]), torch.tensor([2.0]))
        (tensor([3.]), tensor([[ 1., -1.]]))
    """
    by = slope.to(student.dtype)[:, None]
    spread = log_probs(student).exp_().mul_(-by).scatter_add_(-1, token[:, None], by)
    return value.to(spread.dtype), spread
