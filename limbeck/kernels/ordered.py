"""Two distributions over different outcomes, compared by the sizes of their probabilities alone.

Shapes: N rows, V and W outcomes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

__all__ = ["ordered_distance_pair"]


def ordered_distance_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """sum_i |q_(i) - p_(i)|, probabilities in falling order, the shorter filled up with 0; and its derivative.

    With s_v the sign of the difference at the place of v, the derivative by logits is q_v (s_v - sum_u q_u s_u).

    Args:
        student: logits (N, V).
        teacher: logits (N, W).

    Returns:
        (N,) and (N, V).

    Example:
        >>> import torch
        >>> ordered_distance_pair(torch.zeros(1, 2), torch.tensor([[0.0, -torch.inf, 0.0]]))
        (tensor([0.]), tensor([[0., 0.]]))

    Source: Boizard et al., arXiv:2402.12030, equation 6.
    """
    q_NV = student.softmax(-1)
    ordered_NV, place_NV = q_NV.sort(-1, descending=True)
    p_NW = teacher.softmax(-1).to(q_NV.dtype).sort(-1, descending=True).values
    wide = max(q_NV.shape[1], p_NW.shape[1])
    gap = pad(ordered_NV, (0, wide - q_NV.shape[1])) - pad(p_NW, (0, wide - p_NW.shape[1]))
    by_q_NV = ordered_NV.new_empty(q_NV.shape).scatter_(-1, place_NV, gap[:, : q_NV.shape[1]].sign())
    slope_NV = q_NV * (by_q_NV - (q_NV * by_q_NV).sum(-1, keepdim=True))
    return gap.abs().sum(-1), slope_NV
