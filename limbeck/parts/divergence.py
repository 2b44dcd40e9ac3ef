"""Divergences between two distributions given as logits: the slow, plain forms.

One convention everywhere: p is the teacher, q the student; forward KL is KL(p || q), reverse KL is KL(q || p), and
both distributions are softened by the same temperature. Nothing is multiplied by temperature^2: a recipe that wants
Hinton's factor writes it as a weight. Sums are formed in float32 or better; 0 log 0 is 0; a distribution with mass
where the other has none is infinitely far away. `limbeck.kernels.divergence` has the fast forms.

Shapes: V classes or tokens; leading axes are free.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.errors import BadValue

__all__ = ["forward_kl", "jsd", "log_mixture", "log_probs", "relative_entropy", "reverse_kl"]


def log_probs(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Turn logits (..., V) into log-probabilities in float32 or better: log softmax(logits / temperature).

    Raises:
        BadValue: a temperature that is not positive.

    Example:
        >>> log_probs(torch.tensor([0.0, 2.0]), temperature=2.0).exp()
        tensor([0.2689, 0.7311])

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, equation 1.
    """
    if not temperature > 0:
        raise BadValue(f"a divergence needs a temperature above 0, got {temperature:g}")
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return (exact if temperature == 1 else exact / temperature).log_softmax(-1)


def relative_entropy(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Compute KL(a || b) = sum_k a_k (log a_k - log b_k) from log-probabilities; terms with a_k = 0 are 0.

    Args:
        log_a: (..., V), -inf where a is 0.
        log_b: (..., V).

    Returns:
        (...), infinite where a has mass and b has none.

    Example:
        >>> relative_entropy(torch.tensor([0.0, -torch.inf]), torch.tensor([0.5, 0.5]).log())
        tensor(0.6931)

    Source: Kullback and Leibler, "On information and sufficiency", Annals of Mathematical Statistics 22 (1951).
    """
    a = log_a.exp()
    return (a * (log_a - log_b).where(a > 0, 0.0)).sum(-1)


def log_mixture(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """Compute log(beta p + (1 - beta) q), with a gradient of 0 where both are 0.

    Example:
        >>> log_mixture(torch.tensor([0.2, 0.8]).log(), torch.tensor([0.6, 0.4]).log(), 0.5).exp()
        tensor([0.4000, 0.6000])
    """
    nowhere = log_p.isneginf() & log_q.isneginf()
    # logaddexp(-inf, -inf) has no derivative; what stands there is never read, since p and q are 0
    log_p, log_q = log_p.masked_fill(nowhere, 0.0), log_q.masked_fill(nowhere, 0.0)
    return torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))


def forward_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute KL(p || q): the student must cover all that the teacher does.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        temperature: of both.

    Returns:
        (...), in nats.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> forward_kl(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 100.0]))
        tensor(0.6931)
    """
    return relative_entropy(log_probs(teacher, temperature), log_probs(student, temperature))


def reverse_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute KL(q || p): the student must do nothing that the teacher does not.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        temperature: of both.

    Returns:
        (...), in nats.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> reverse_kl(torch.tensor([0.0, 100.0]), torch.tensor([0.0, 0.0]))
        tensor(0.6931)

    Source: Gu et al., "MiniLLM", arXiv:2306.08543, equation 1.
    """
    return relative_entropy(log_probs(student, temperature), log_probs(teacher, temperature))


def jsd(student: Tensor, teacher: Tensor, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Compute the generalised Jensen-Shannon divergence, between forward KL (beta -> 0) and reverse KL (beta -> 1).

    beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q

    At the ends this vanishes, but divided by beta it tends to KL(p || q) for beta -> 0, and divided by 1 - beta to
    KL(q || p) for beta -> 1. So the ends give these limits, and the value jumps there while its direction does not.
    TRL's `beta` means the same, inside and at the ends.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        beta: in [0, 1], the share of the teacher in the mixture.
        temperature: of both.

    Returns:
        (...), in nats; at most log 2 for beta = 0.5.

    Raises:
        BadValue: beta outside [0, 1].

    Example:
        >>> far = torch.tensor([[100.0, -100.0], [-100.0, 100.0]])
        >>> jsd(far, far.flip(0)), jsd(far, far)
        (tensor([0.6931, 0.6931]), tensor([0., 0.]))

    Source: Agarwal et al., arXiv:2306.13649, equation 1 and section 2.
    """
    if not 0 <= beta <= 1:
        raise BadValue(f"jsd needs beta in [0, 1], got {beta:g}")
    if beta in (0, 1):
        return (reverse_kl if beta else forward_kl)(student, teacher, temperature=temperature)
    log_p, log_q = log_probs(teacher, temperature), log_probs(student, temperature)
    log_m = log_mixture(log_p, log_q, beta)
    return beta * relative_entropy(log_p, log_m) + (1 - beta) * relative_entropy(log_q, log_m)
