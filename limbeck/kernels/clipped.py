"""Forward KL whose terms are held down one by one, before they are summed.

Shapes: N rows, V outcomes.
"""

from __future__ import annotations

import math

from torch import Tensor

from limbeck.errors import BadValue
from limbeck.kernels.divergence import Terms

__all__ = ["clipped_forward_kl_terms"]


def clipped_forward_kl_terms(most: float) -> Terms:
    """sum_v min(p_v log(p_v / q_v), most): h_v = -p_v where the term counts, 0 where it is cut.

    A term that is cut pulls no more, and the others need not balance: the sum may be negative, and its least value is
    not at q = p.

    Args:
        most: the largest term.

    Raises:
        BadValue: a bound that is not positive.

    Example:
        >>> from limbeck.kernels.divergence import Divergence
        >>> import torch
        >>> pair = Divergence(clipped_forward_kl_terms(0.5))
        >>> pair(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 200.0]]))
        (tensor([0.5000]), tensor([[-0., 0.]]))

    Source: Liu et al., "When Are Teacher Tokens Reliable?", arXiv:2605.21606; the derivative is worked out here.
    """
    if most <= 0:
        raise BadValue(f"a term of forward KL can only be held below a positive bound, got {most:g}")

    def terms(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        term = log_p.sub_(log_q).mul_(p).nan_to_num_(0.0, math.inf, -math.inf)
        h = p.neg_().masked_fill_(term > most, 0.0)
        return term.clamp_(max=most).sum(-1), h

    return terms
