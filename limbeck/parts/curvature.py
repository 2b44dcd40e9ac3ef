"""How an f-divergence weighs the places where two laws differ: the curvature r^2 f''(r) of its generator.

D_f(p || q) = E_q f(p / q), with r = p / q, the teacher's density over the student's. When the student moves, the
gradient of D_f is that of the reverse Kullback-Leibler divergence with every sample weighed by h(r) = r^2 f''(r):

    d D_f / d theta = E h(r(x)) (s_q(x) - s_p(x)) dx / d theta

Divergences that cover modes weigh what the student is short of (r large) more. Each is a part of the ratio, `(r)`, and
stands where a loss has a hyper-parameter `curvature`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.part import part

__all__ = [
    "forward_kl",
    "jeffreys",
    "jensen_shannon",
    "neyman",
    "pearson",
    "reverse_kl",
    "softened_reverse_kl",
    "squared_hellinger",
]


@part
def reverse_kl(r: Tensor) -> Tensor:
    """KL(q || p): seeks modes; every sample weighs the same.

    f = -log r, h = 1

    Args:
        r: (...) ratios.

    Returns:
        (...).

    Source: Xu et al., arXiv:2502.15681; the weight is that of its code.
    """
    return torch.ones_like(r)


@part
def forward_kl(r: Tensor) -> Tensor:
    """KL(p || q): covers modes; the weight is the ratio itself.

    f = r log r, h = r

    Args:
        r: (...) ratios.

    Returns:
        (...).

    Example:
        >>> forward_kl()(torch.tensor([2.0]))
        tensor([2.])

    Source: Xu et al., arXiv:2502.15681; the weight is that of its code.
    """
    return r * 1


@part
def jeffreys(r: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p).

    f = (r - 1) log r, h = 1 + r

    Args:
        r: (...) ratios.

    Returns:
        (...).

    Source: Xu et al., arXiv:2502.15681; the weight is that of its code.
    """
    return 1 + r


@part
def jensen_shannon(r: Tensor) -> Tensor:
    """KL(p || m) + KL(q || m), m = (p + q) / 2: a weight that stays below 1.

    f = r log r - (r + 1) log((r + 1) / 2), h = r / (1 + r)

    Args:
        r: (...) ratios.

    Returns:
        (...).

    Example:
        >>> jensen_shannon()(torch.tensor([1.0]))
        tensor([0.5000])

    Source: Xu et al., arXiv:2502.15681; the weight is that of its code.
    """
    return r / (1 + r)


@part
def squared_hellinger(r: Tensor) -> Tensor:
    """2 int (sqrt(p) - sqrt(q))^2: half-way between the two Kullback-Leibler divergences.

    f = 2 (sqrt(r) - 1)^2, h = sqrt(r)

    Args:
        r: (...) ratios.

    Returns:
        (...).

    Source: Xu et al., arXiv:2502.15681; the weight is that of its code, without the constant of f.
    """
    return r.sqrt()


@part
def softened_reverse_kl(r: Tensor) -> Tensor:
    """2 KL(m || p), m = (p + q) / 2: the reverse divergence, held back where the student is short already.

    f = (r + 1) log((r + 1) / (2 r)), h = 1 / (1 + r)

    Args:
        r: (...) ratios.

    Returns:
        (...).

    Source: Xu et al., arXiv:2502.15681; the weight is that of its code.
    """
    return 1 / (1 + r)


@part
def neyman(r: Tensor) -> Tensor:
    """Half of Neyman's chi^2, int (p - q)^2 / (2 p): seeks modes harder than the reverse divergence.

    f = (1 - r)^2 / (2 r), h = 1 / r

    Args:
        r: (...) ratios.

    Returns:
        (...).

    Source: Xu et al., arXiv:2502.15681; the weight is that of its code, without the constant of f.
    """
    return 1 / r


@part
def pearson(r: Tensor) -> Tensor:
    """Half of Pearson's chi^2, int (p - q)^2 / (2 q): covers modes harder than the forward divergence.

    f = (r - 1)^2 / 2, h = r^2

    Args:
        r: (...) ratios.

    Returns:
        (...).

    Example:
        >>> pearson()(torch.tensor([3.0]))
        tensor([9.])

    Source: Wang et al., arXiv:2505.20755, without its constant.
    """
    return r.square()
