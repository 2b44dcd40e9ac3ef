"""A player's value and its derivative along a direction, where nothing flows back through the derivative.

Targets that a net takes from its own derivative are held fixed, so their derivative needs no graph: `held_jvp` records
the value alone. It also knows, layer by layer, what PyTorch's forward mode computes in vain. A layer whose weights have
no tangent is linear in its input, and costs its tangent one product (forward mode multiplies by zeros as well);
attention keeps its fused kernel for the value; normalisations and activations take their derivative in a pass or two.
All else follows the rules of PyTorch, and what has none falls back to `limbeck.parts.jvp.jvp`.

Shapes: B rows; any other axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from limbeck.parts.jvp import INSTEAD, Fn, _load_rules, jvp

__all__ = ["held_jvp"]


def held_jvp(fn: Fn, at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The value of a function and its derivative along a direction, held fixed: the value alone has a gradient.

    f(x),  sg[sum_i (df / dx_i) d_i]

    Args:
        fn: a function of as many tensors as `at` has; it may ask players. It may be called several times.
        at: x, where it is taken.
        along: d, of the same shapes.

    Returns:
        The value, differentiable, and the derivative, which is not; both of the shape that `fn` returns.

    Raises:
        RuntimeError: the function fails by itself, without derivatives.
        BadValue: as `jvp` raises it.

    Example:
        >>> held_jvp(torch.sin, (torch.zeros(2),), (torch.tensor([1.0, 3.0]),))[1]
        tensor([1., 3.])
    """
    _load_rules()
    try:
        with _Held() as held:
            value, slope = torch.func.jvp(held.inside(fn), at, along)  # type: ignore[misc]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # no rule for an operation
        value, slope = jvp(fn, at, along)
    return value, slope.detach()


class _Held(TorchFunctionMode):
    """Give the operations of nets tangents without a graph."""

    level: int | None = None

    def inside(self, fn: Fn) -> Fn:
        """The function, which on its call notes how deep derivatives are nested: those inside it are not ours."""

        def noted(*at: Tensor) -> Tensor:
            self.level = torch._C._functorch.maybe_current_level()
            return fn(*at)

        return noted

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        ours = func in RULES and torch._C._functorch.maybe_current_level() == self.level
        return RULES[func](*args, **kwargs) if ours else func(*args, **kwargs)


def _parted(*tensors: Tensor | None) -> tuple[list[Any], list[Any]]:
    """Values and tangents; None where there is no tangent."""
    pairs = [(None, None) if x is None else forward_ad.unpack_dual(x, level=0) for x in tensors]
    return [p for p, _ in pairs], [d for _, d in pairs]


def _joined(value: Tensor, slope: Tensor) -> Tensor:
    return forward_ad.make_dual(value, slope.to(value.dtype), level=0)  # type: ignore[no-any-return]


def _linear_in_input(func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer that is linear in its input, where its weights have no tangent: its tangent is the layer without bias."""

    def layer(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        (x, w, b), (dx, *rest) = _parted(input, weight, bias)
        if dx is None or any(d is not None for d in rest):
            return func(input, weight, bias, *args, **kwargs)
        with torch.no_grad():
            slope = func(dx, w, None, *args, **kwargs)
        return _joined(func(x, w, b, *args, **kwargs), slope)

    return layer


def _silu(input: Tensor, inplace: bool = False) -> Tensor:
    (x,), (dx,) = _parted(input)
    if dx is None or inplace:
        return F.silu(input, inplace)
    with torch.no_grad():
        slope = torch.ops.aten.silu_backward(dx, x)
    return _joined(F.silu(x), slope)


def _gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    (x,), (dx,) = _parted(input)
    if dx is None:
        return F.gelu(input, approximate=approximate)
    with torch.no_grad():
        slope = torch.ops.aten.gelu_backward(dx, x, approximate=approximate)
    return _joined(F.gelu(x, approximate=approximate), slope)


def _layer_norm(
    input: Tensor, normalized_shape: tuple[int, ...], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    (x, w, b), (dx, *rest) = _parted(input, weight, bias)
    if dx is None or any(d is not None for d in rest):
        return INSTEAD[F.layer_norm](input, normalized_shape, weight, bias, eps)
    with torch.no_grad():
        slope = _standardised_along(x.flatten(-len(normalized_shape)), dx.flatten(-len(normalized_shape)), eps)
        slope = slope.view_as(x) if w is None else slope.view_as(x) * w
    return _joined(F.layer_norm(x, normalized_shape, w, b, eps), slope)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    (x, w, b), (dx, *rest) = _parted(input, weight, bias)
    if dx is None or any(d is not None for d in rest):
        return INSTEAD[F.group_norm](input, num_groups, weight, bias, eps)
    with torch.no_grad():
        grouped = (len(x), num_groups, -1)
        slope = _standardised_along(x.reshape(grouped), dx.reshape(grouped), eps).view(x.shape)
        slope = slope if w is None else slope * w.view(-1, *[1] * (x.ndim - 2))
    return _joined(F.group_norm(x, num_groups, w, b, eps), slope)


def _standardised_along(x: Tensor, d: Tensor, eps: float) -> Tensor:
    """The derivative along d of (x - mean) / sqrt(var + eps) over the last axis, at least in float32.

    r (d - mean(d) - z mean(z d)), r = 1 / sqrt(var + eps), z = r (x - mean)
    """
    x, d = (z.float() if z.dtype in (torch.bfloat16, torch.float16) else z for z in (x, d))
    var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    r = (var + eps).rsqrt()
    z = (x - mean).mul_(r)
    out = torch.addcmul(d, z, (z * d).mean(-1, keepdim=True), value=-1)
    return out.sub_(d.mean(-1, keepdim=True)).mul_(r)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    (q, k, v), (dq, dk, dv) = _parted(query, key, value)
    special = attn_mask is not None or dropout_p or is_causal or enable_gqa
    if special or dq is None or dk is None or dv is None:
        with sdpa_kernel(SDPBackend.MATH):  # the kernel that has forward-mode rules
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
    with torch.no_grad():
        c = q.shape[-1] ** -0.5 if scale is None else scale
        p = (c * q @ k.mT).softmax(-1)
        s = c * (dq @ k.mT + q @ dk.mT)
        slope = (p * (s - (p * s).sum(-1, keepdim=True))) @ v + p @ dv
    return _joined(F.scaled_dot_product_attention(q, k, v, scale=scale), slope)


RULES: dict[Any, Callable[..., Tensor]] = INSTEAD | {
    F.silu: _silu, F.gelu: _gelu, F.layer_norm: _layer_norm, F.group_norm: _group_norm,
    F.scaled_dot_product_attention: _attention,
} | {f: _linear_in_input(f) for f in (F.linear, F.conv1d, F.conv2d, F.conv3d)}  # fmt: skip
