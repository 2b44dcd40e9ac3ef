"""Reverse KL whose terms are held down one by one, before they are summed.

Shapes: N rows, V outcomes.
"""

from __future__ import annotations

import math

from torch import Tensor

from limbeck.errors import BadValue
from limbeck.kernels.divergence import Terms

__all__ = ["clipped_reverse_kl_terms"]


def clipped_reverse_kl_terms(most: float) -> Terms:
    """sum_v min(q_v log(q_v / p_v), most): h_v = q_v (log(q_v / p_v) + 1) where the term counts, 0 where it is cut.

    The 1 stays: where terms are cut it is no multiple of q.

    Args:
        most: the largest term.

    Raises:
        BadValue: a bound that is not positive.

    Example:
        >>> import torch
        >>> from limbeck.kernels.divergence import Divergence
        >>> pair = Divergence(clipped_reverse_kl_terms(0.5))
        >>> pair(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
        (tensor([0.]), tensor([[0., 0.]]))
    """
    if most <= 0:
        raise BadValue(f"a term of reverse KL can only be held below a positive bound, got {most:g}")

    def terms(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        term = log_q.sub_(log_p).mul_(q).nan_to_num_(0.0, math.inf, -math.inf)
        h = term.add(q).masked_fill_(term > most, 0.0)
        return term.clamp_(max=most).sum(-1), h

    return terms
