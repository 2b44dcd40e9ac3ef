"""Derivatives of a player along a direction, taken inside its forward.

`torch.func.jvp` pushes a tangent through the net while it answers, so it sees whatever wrapper the net is called in,
and its result can be differentiated again with respect to the weights. It needs forward-mode rules for every operation:
perceptrons, convolutions and attention with plain matrix products have them; the fused kernels of
`scaled_dot_product_attention` do not, so attention is run by its plain kernel here. What stays out: `torch.compile`d
nets, operators of one's own without a forward rule, and activation checkpointing.

Shapes: B rows; any other axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["jvp"]


def jvp(fn: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The value of a function and its derivative along a direction, in one pass.

    f(x),  sum_i (df / dx_i) d_i

    Args:
        fn: a function of as many tensors as `at` has; it may ask players.
        at: x, where it is taken.
        along: d, of the same shapes.

    Returns:
        The value and the derivative, both of the shape that `fn` returns, both differentiable.

    Raises:
        NotImplementedError: an operation has no forward-mode rule.

    Example:
        >>> jvp(torch.sin, (torch.zeros(2),), (torch.tensor([1.0, 3.0]),))[1]
        tensor([1., 3.])
    """
    _load_rules()
    with sdpa_kernel(SDPBackend.MATH):
        value, slope = torch.func.jvp(fn, at, along)  # type: ignore[misc]
    return value, slope


@cache
def _load_rules() -> None:
    """Let PyTorch load its forward-mode rules, once; it calls a part of itself that it has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))
