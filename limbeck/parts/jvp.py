"""Derivatives of a player along a direction, taken inside its forward.

`jvp` pushes a tangent through the net while it answers, so it sees whatever wrapper the net is called in, and its
result can be differentiated again with respect to the weights. Forward mode needs a rule for every operation, and
PyTorch 2.13 lacks some: the fused kernels of attention have none; group normalisation has one for contiguous
activations only; those of layer and instance normalisation are right, but their gradients are silently wrong (the mean
and deviation count as constants there). So attention is run by its plain kernel here, group normalisation on a
contiguous copy, and the other two by their formula. Where a rule is missing all the same (operators of one's own,
activation checkpointing), two reverse passes give the same number, and where even the second fails, a difference
quotient whose step is checked against one reverse pass.

`difference` is that quotient by choice: it costs one forward beyond the value itself and keeps the fused kernels. No
step fits all nets (a time embedding that multiplies the level by 1000 needs one 1000 times as small), so the step comes
from `checked_step`, once, on a tiny batch.

Shapes: B rows; any other axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from limbeck.errors import BadValue

__all__ = ["checked_step", "difference", "double_vjp", "jvp"]

Fn = Callable[..., Tensor]
STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)


def jvp(fn: Fn, at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The value of a function and its derivative along a direction, by the first way that its operations allow.

    f(x),  sum_i (df / dx_i) d_i

    Args:
        fn: a function of as many tensors as `at` has; it may ask players. It may be called several times.
        at: x, where it is taken.
        along: d, of the same shapes.

    Returns:
        The value and the derivative, both of the shape that `fn` returns, both differentiable.

    Raises:
        RuntimeError: the function fails by itself, without derivatives.
        BadValue: neither forward mode nor two reverse passes work, and no step of a difference quotient agrees with
            one; or the net mixes rows, as batch normalisation does in training.

    Example:
        >>> jvp(torch.sin, (torch.zeros(2),), (torch.tensor([1.0, 3.0]),))[1]
        tensor([1., 3.])
    """
    _load_rules()
    for way in (_forward, double_vjp):
        try:
            with sdpa_kernel(SDPBackend.MATH), _Derivable():
                return way(fn, at, along)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # NotImplementedError is one: no rule for an operation
            continue
    step, _ = checked_step(fn, at, along, by=reverse_agreement)
    return difference(fn, at, along, step)


def _forward(fn: Fn, at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Forward mode: one pass."""
    value, slope = torch.func.jvp(fn, at, along)  # type: ignore[misc]
    return value, slope


def double_vjp(fn: Fn, at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The derivative along a direction by two reverse passes: the first is linear in v, the second differentiates it.

    d/dv <v' J(x), d> = J(x) d

    Args:
        fn: a function of as many tensors as `at` has, whose operations can be differentiated twice.
        at: x, where it is taken.
        along: d, of the same shapes.

    Returns:
        The value and the derivative, differentiable where gradients are on.

    Raises:
        RuntimeError: an operation has no second derivative.

    Example:
        >>> double_vjp(torch.sin, (torch.zeros(2),), (torch.tensor([1.0, 3.0]),))[1].tolist()
        [1.0, 3.0]

    Source: Townsend, "A new trick for calculating Jacobian vector products", 2017.
    """
    keeps = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = tuple(x if x.requires_grad else x.detach().requires_grad_() for x in at)
        value = fn(*inputs)
        v = torch.zeros_like(value, requires_grad=True)
        pulled = torch.autograd.grad(value, inputs, v, create_graph=True, materialize_grads=True)
        found = [(g, d) for g, d in zip(pulled, along, strict=True) if g.requires_grad]
        slope = torch.autograd.grad(
            [g for g, _ in found], v, [d for _, d in found], create_graph=keeps, materialize_grads=True
        )[0]
    return (value, slope) if keeps else (value.detach(), slope.detach())


def difference(
    fn: Fn, at: tuple[Tensor, ...], along: tuple[Tensor, ...], step: float, value: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The derivative along a direction by a difference quotient.

    (f(x + h d) - f(x)) / h

    Args:
        fn: a function of as many tensors as `at` has.
        at: x, where it is taken.
        along: d, of the same shapes.
        step: h, from `checked_step`; below 0 to go the other way.
        value: f(x), where it is known already.

    Returns:
        The value and the quotient, wrong by h f'' / 2 and by the rounding of f over h.

    Example:
        >>> difference(torch.square, (torch.ones(1),), (torch.ones(1),), 0.5)[1]
        tensor([2.5000])
    """
    value = fn(*at) if value is None else value
    ahead = fn(*(x + step * d for x, d in zip(at, along, strict=True)))
    return value, (ahead - value) / step


Agreement = Callable[[Fn, tuple[Tensor, ...], tuple[Tensor, ...]], Callable[[Tensor], float]]


def exact_agreement(fn: Fn, at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Callable[[Tensor], float]:
    """How far a quotient is from the derivative itself: |q - J d| / |J d|."""
    true = jvp(fn, at, along)[1].double()
    size = float(true.norm())

    def error(slope: Tensor) -> float:
        return float((slope.double() - true).norm()) / max(size, torch.finfo(torch.float64).tiny)

    return error


def reverse_agreement(fn: Fn, at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Callable[[Tensor], float]:
    """How far a quotient is from the derivative by one reverse pass, which knows its products with some vectors.

    |<v, q> - <J' v, d>| / |<J' v, d>| for v = +-1, over eight of them
    """
    with torch.enable_grad():
        inputs = tuple(x.detach().requires_grad_() for x in at)
        value = fn(*inputs)
        signs = _signs(8, value)
        pulled = [torch.autograd.grad(value, inputs, v, retain_graph=True, materialize_grads=True) for v in signs]
    true = [sum((g.double() * d.double()).sum() for g, d in zip(row, along, strict=True)) for row in pulled]
    size = max(float(sum(t * t for t in true)) ** 0.5, torch.finfo(torch.float64).tiny)

    def error(slope: Tensor) -> float:
        off = [(v.double() * slope.double()).sum() - t for v, t in zip(signs, true, strict=True)]
        return float(sum(o * o for o in off)) ** 0.5 / size

    return error


def _signs(n: int, like: Tensor) -> list[Tensor]:
    """Vectors of +-1 that look random and are always the same: parities of a few bits of a scrambled position."""
    place = torch.arange(like.numel(), device=like.device)
    scrambled = (place * 2654435761 + 40503) % 4294967291
    return [1 - 2 * ((scrambled >> (3 + 3 * k)) & 1).to(like.dtype).view_as(like) for k in range(n)]


@torch.no_grad()
def checked_step(
    fn: Fn,
    at: tuple[Tensor, ...],
    along: tuple[Tensor, ...],
    *,
    steps: tuple[float, ...] = STEPS,
    tolerance: float = 0.05,
    by: Agreement = exact_agreement,
) -> tuple[float, float]:
    """The step at which the difference quotient of a function is nearest to its derivative.

    argmin_h |(f(x + h d) - f(x)) / h - J d| / |J d|

    Args:
        fn: a function of as many tensors as `at` has; one player on a tiny batch is enough.
        at: x, where it is taken.
        along: d, of the same shapes.
        steps: the steps to try.
        tolerance: the relative error that is still borne.
        by: what the quotient is measured against: the derivative itself, or products with it by one reverse pass.

    Returns:
        The step and its relative error.

    Raises:
        BadValue: no step comes within the tolerance.

    Example:
        >>> step, error = checked_step(torch.sin, (torch.ones(4),), (torch.ones(4),))
        >>> step <= 1e-3, error < 1e-2
        (True, True)
    """
    value, error = fn(*at), by(fn, at, along)
    tried = [(error(difference(fn, at, along, h, value)[1]), h) for h in steps]
    least, step = min(tried, key=lambda pair: (pair[0] != pair[0], pair[0]))
    if not least <= tolerance:
        raise BadValue(
            f"no step of a difference quotient comes within {tolerance:g} of the derivative; the nearest, {step:g}, is "
            f"off by {least:.2g}: use jvp in float64, or a net with forward-mode rules"
        )
    return step, least


class _Derivable(TorchFunctionMode):
    """Run what has no rule, or a wrong one, by operations that have right ones."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return INSTEAD.get(func, func)(*args, **(kwargs or {}))


def _group_norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return F.group_norm(input.contiguous(), *args, **kwargs)


def _layer_norm(
    input: Tensor, normalized_shape: tuple[int, ...], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    out = _standardised(input, tuple(range(-len(normalized_shape), 0)), eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:
        raise BadValue("a net cannot gather running statistics in jvp; put its normalisation into evaluation mode")
    out, shape = _standardised(input, tuple(range(2, input.ndim)), eps), (1, -1, *[1] * (input.ndim - 2))
    out = out if weight is None else out * weight.view(shape)
    return out if bias is None else out + bias.view(shape)


def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if training:
        raise BadValue(
            "a net cannot normalise over the batch in jvp, where rows would mix; put it into evaluation mode"
        )
    return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


def _standardised(x: Tensor, over: tuple[int, ...], eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps), at least in float32."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    centred = wide - wide.mean(over, keepdim=True)
    return (centred * (centred.square().mean(over, keepdim=True) + eps).rsqrt()).to(x.dtype)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


INSTEAD: dict[Any, Callable[..., Tensor]] = {
    F.group_norm: _group_norm, F.layer_norm: _layer_norm, F.instance_norm: _instance_norm, F.batch_norm: _batch_norm,
    F.glu: _glu,
}  # fmt: skip


@cache
def _load_rules() -> None:
    """Let PyTorch load its forward-mode rules, once; it calls a part of itself that it has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))
