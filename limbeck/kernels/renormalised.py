"""Distributions over a list of tokens alone, the rest of the vocabulary left out on both sides.

Shapes: N rows, V tokens, K listed tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["renormalised_kl_pair"]


def renormalised_kl_pair(student: Tensor, ids: Tensor, logp: Tensor) -> tuple[Tensor, Tensor]:
    """sum_k p_k log(p_k / q_k), q the student's softmax over the listed tokens; its derivative is q - p at them.

    Args:
        student: logits (N, V).
        ids: (N, K) integers, distinct tokens where logp is above -inf.
        logp: (N, K), log-probabilities that sum to 1; -inf for padding.

    Returns:
        (N,) and (N, V).

    Example:
        >>> even = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log()
        >>> renormalised_kl_pair(torch.tensor([[0.0, 0.0, 99.0]]), *even)
        (tensor([0.]), tensor([[0., 0., 0.]]))
    """
    listed, at = logp > -torch.inf, ids.long().where(logp > -torch.inf, 0)
    logq = student.gather(-1, at).masked_fill(~listed, -torch.inf).log_softmax(-1)
    p = logp.exp().to(logq.dtype)
    value = (p * (logp - logq).masked_fill(~listed, 0.0)).sum(-1)
    return value, torch.zeros_like(student).scatter_add_(-1, at, logq.exp() - p)
