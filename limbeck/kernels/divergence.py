"""Divergences as pairs: the value and its derivative by the student's logits, from one pass and without autograd.

A pair is a function of the student's logits (N, V) and whatever the loss compares them with; it returns the values
(N,) and the derivatives (N, V). `by_autograd` makes a pair of any differentiable function. The plain forms that these
are tested against, and the conventions, are in `limbeck.parts.divergence`: p is the teacher, q the student.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import BadValue
from limbeck.parts.divergence import log_probs

__all__ = ["Pair", "by_autograd", "cross_entropy_pair", "forward_kl_pair", "jsd_pair", "reverse_kl_pair"]

Pair = Callable[..., tuple[Tensor, Tensor]]


def by_autograd(loss: Callable[..., Tensor]) -> Pair:
    """Make a pair of a differentiable function of the student's logits.

    Args:
        loss: from logits (N, V), and whatever else it is given, to values (N,); rows do not depend on each other.

    Example:
        >>> value, slope = by_autograd(lambda z: z.logsumexp(-1))(torch.zeros(1, 2))
        >>> value, slope
        (tensor([0.6931]), tensor([[0.5000, 0.5000]]))
    """

    def pair(logits: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            value = loss(logits, *given)
            (slope,) = torch.autograd.grad(value.sum(), logits)
        return value.detach(), slope

    return pair


def forward_kl_pair(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """KL(p || q), whose derivative is (q - p) / temperature.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> forward_kl_pair(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]]))
        (tensor([0.6931]), tensor([[ 0.5000, -0.5000]]))

    Source: Hinton et al., arXiv:1503.02531, equation 2 (the derivative).
    """
    log_p, log_q = log_probs(teacher, temperature), log_probs(student, temperature)
    p = log_p.exp()
    value = log_p.sub_(log_q).masked_fill_(p == 0, 0.0).mul_(p).sum(-1)
    return value, log_q.exp_().sub_(p).div_(temperature)


def reverse_kl_pair(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """KL(q || p), whose derivative is q (log(q / p) - KL(q || p)) / temperature.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> reverse_kl_pair(torch.tensor([[0.0, 100.0]]), torch.tensor([[0.0, 0.0]]))[0]
        tensor([0.6931])
    """
    log_q = log_probs(student, temperature)
    q = log_q.exp()
    return _tilted(q, log_q.sub_(log_probs(teacher, temperature)), 1 / temperature)


def _tilted(q: Tensor, ratio: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """KL(q || m) from q and log(q / m), which is overwritten; and factor q (log(q / m) - KL(q || m))."""
    ratio = ratio.masked_fill_(q == 0, 0.0)
    value = (q * ratio).sum(-1)
    return value, ratio.sub_(value[..., None]).mul_(q).mul_(factor)


def jsd_pair(student: Tensor, teacher: Tensor, *, beta: float = 0.5, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The generalised Jensen-Shannon divergence; forward KL at beta 0 and reverse KL at beta 1.

    Its derivative is (1 - beta) q (log(q / m) - KL(q || m)) / temperature: by q_k alone it is
    (1 - beta) log(q_k / m_k), since the terms of m cancel.

    Raises:
        BadValue: beta outside [0, 1].

    Source: Agarwal et al., arXiv:2306.13649, equation 1; the derivative is worked out here.
    """
    if not 0 <= beta <= 1:
        raise BadValue(f"jsd needs beta in [0, 1], got {beta:g}")
    if beta in (0, 1):
        return (reverse_kl_pair if beta else forward_kl_pair)(student, teacher, temperature=temperature)
    log_p, log_q = log_probs(teacher, temperature), log_probs(student, temperature)
    p, q = log_p.exp(), log_q.exp()
    # the mixture of probabilities is exact enough: where it underflows, p and q are 0 and no term is kept
    log_m = p.mul(beta).add_(q, alpha=1 - beta).log_()
    of_p = log_p.sub_(log_m).masked_fill_(p == 0, 0.0).mul_(p).sum(-1)
    of_q, slope = _tilted(q, log_q.sub_(log_m), (1 - beta) / temperature)
    return beta * of_p + (1 - beta) * of_q, slope


def cross_entropy_pair(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """-log q_target, whose derivative is q - 1 at the target and q elsewhere; `target` is (N,) int64.

    Example:
        >>> cross_entropy_pair(torch.zeros(1, 2), torch.tensor([0]))
        (tensor([0.6931]), tensor([[-0.5000,  0.5000]]))
    """
    log_q, at = log_probs(student), target[:, None]
    value = -log_q.gather(-1, at)[:, 0]
    slope = log_q.exp_()
    return value, slope.scatter_add_(-1, at, -torch.ones_like(at, dtype=slope.dtype))
