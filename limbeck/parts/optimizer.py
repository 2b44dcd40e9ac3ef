"""Optimisers: parts `(params)` that return a `torch.optim.Optimizer`.

The loop sets the learning rate of every step from the hyper-parameter `lr`, which may be a schedule.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW

from limbeck.part import part

__all__ = ["adam", "adamw", "sgd"]


@part
def adamw(
    params: list[Tensor],
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.01,
    eps: float = 1e-8,
) -> AdamW:
    """Adam with decoupled weight decay.

    w <- (1 - lr weight_decay) w - lr m_hat / (sqrt(v_hat) + eps)

    Args:
        params: the weights that learn.
        lr: the step size.
        betas: the decay of the running means of the gradient and of its square.
        weight_decay: the share of lr by which weights shrink at each step.
        eps: what keeps the quotient finite.

    Returns:
        The optimiser.

    Raises:
        ValueError: no weights, a negative lr, eps or weight decay, or a beta outside [0, 1).

    Example:
        >>> import torch
        >>> adamw(lr=0.1)([torch.zeros(2, requires_grad=True)]).param_groups[0]["lr"]
        0.1

    Source: Loshchilov and Hutter, arXiv:1711.05101.
    """
    return AdamW(params, lr=lr, betas=betas, weight_decay=weight_decay, eps=eps, fused=True)


@part
def adam(
    params: list[Tensor], *, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Adam:
    """Adam.

    w <- w - lr m_hat / (sqrt(v_hat) + eps)

    Args:
        params: the weights that learn.
        lr: the step size.
        betas: the decay of the running means of the gradient and of its square.
        eps: what keeps the quotient finite.

    Returns:
        The optimiser.

    Raises:
        ValueError: no weights, a negative lr or eps, or a beta outside [0, 1).

    Example:
        >>> import torch
        >>> adam(lr=0.1)([torch.zeros(2, requires_grad=True)]).param_groups[0]["weight_decay"]
        0

    Source: Kingma and Ba, arXiv:1412.6980.
    """
    return Adam(params, lr=lr, betas=betas, eps=eps, fused=True)


@part
def sgd(params: list[Tensor], *, lr: float = 0.1, momentum: float = 0.0, weight_decay: float = 0.0) -> SGD:
    """Stochastic gradient descent with momentum and coupled weight decay.

    u <- momentum u + g + weight_decay w;  w <- w - lr u

    Args:
        params: the weights that learn.
        lr: the step size.
        momentum: the share of the last update that is kept.
        weight_decay: the weight of the squared-norm penalty.

    Returns:
        The optimiser.

    Raises:
        ValueError: no weights, or a negative lr, momentum or weight decay.

    Example:
        >>> import torch
        >>> w = torch.ones(1, requires_grad=True)
        >>> (3 * w).sum().backward()
        >>> sgd(lr=0.5)([w]).step()
        >>> w.data
        tensor([-0.5000])

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.
    """
    whole = not any(isinstance(p, DTensor) for p in params)  # PyTorch has no fused step for shares of weights
    return SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=whole, foreach=not whole)
