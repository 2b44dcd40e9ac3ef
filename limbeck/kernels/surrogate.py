"""The surrogate of policy gradients as a pair: weighted advantages of said tokens, cut where a step goes too far.

Shapes: N rows, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.parts.divergence import log_probs

__all__ = ["Surrogate"]


@dataclass(frozen=True)
class Surrogate:
    """-min(r A, clip(r, 1 - low, 1 + high) A), r = q(y) / q_old(y), of logits (N, V), tokens y and advantages A (N,).

    Where log q_old is not told, it is log q itself: r is 1, and its derivative that of log q(y).

    Args:
        low: how far below 1 a ratio counts.
        high: how far above.

    Example:
        >>> logits, token = torch.zeros(2, 2), torch.tensor([0, 0])
        >>> Surrogate(0.2, 0.2)(logits, token, torch.ones(2), torch.tensor([0.5, 0.25]).log())
        (tensor([-1.0000, -1.2000]), tensor([[-0.5000,  0.5000],
                [ 0.0000,  0.0000]]))

    Source: Schulman et al., "Proximal Policy Optimization Algorithms", arXiv:1707.06347, equation 7.
    """

    low: float
    high: float

    def __call__(
        self, student: Tensor, token: Tensor, good: Tensor, old: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the values (N,) and the derivatives (N, V)."""
        log_q, at = log_probs(student, 1.0), token[:, None]
        logp = log_q.gather(-1, at)[:, 0]
        ratio = torch.exp(logp - (logp if old is None else old))
        free, cut = ratio * good, ratio.clamp(1 - self.low, 1 + self.high) * good
        slope = -free.where(free <= cut, 0.0)[:, None]  # of log q(y)
        return -torch.minimum(free, cut), log_q.exp_().mul_(-slope).scatter_add_(-1, at, slope)
