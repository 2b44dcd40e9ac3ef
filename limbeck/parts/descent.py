"""Nets as functions of one flat vector of weights, and descents through which a gradient can flow.

What is here serves everything that differentiates through training, or trains nets other than the players.

Legend of shapes: S nets, P weights of a net, R rows that a net learns from, C classes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from limbeck.errors import Mismatch
from limbeck.rng import derive

__all__ = ["descent_step", "fresh_weights", "scores", "unroll"]


def scores(net: nn.Module, w_P: Tensor, x: Tensor) -> Tensor:
    """Ask a net for class scores, with other weights than its own.

    Args:
        net: answers "logits" on column x; its buffers stay its own.
        w_P: (P,) all its parameters, one after the other.
        x: (R, ...) data.

    Returns:
        (R, C) logits.

    Example:
        >>> from limbeck.adapters.modules import Plain
        >>> net = Plain(nn.Linear(2, 1, bias=False))
        >>> scores(net, torch.tensor([1.0, 2.0]), torch.ones(1, 2))
        tensor([[3.]])
    """
    named = dict(net.named_parameters())
    pieces = w_P.split([p.numel() for p in named.values()])
    weights = {name: piece.view(p.shape) for (name, p), piece in zip(named.items(), pieces, strict=True)}
    answer: Tensor = functional_call(net, weights, ({"x": x}, frozenset({"logits"})))["logits"]
    return answer


def fresh_weights(net: nn.Module, *keys: object) -> Tensor:
    """Draw the weights of a net anew, as its layers draw them when they are built.

    Args:
        net: the architecture; it is left as it is.
        keys: one plain value a net: the same key gives the same weights.

    Returns:
        (S, P) weights, on the device of the net.

    Raises:
        Mismatch: a parameter that no layer knows how to draw (its module has no `reset_parameters`).

    Example:
        >>> two = fresh_weights(nn.Linear(3, 2), ("seed", 0), ("seed", 1))
        >>> tuple(two.shape), bool((two[0] == two[1]).any())
        ((2, 8), False)
    """
    again = copy.deepcopy(net).cpu()
    drawn = [m for m in again.modules() if hasattr(m, "reset_parameters")]
    covered = {id(p) for m in drawn for p in m.parameters(recurse=False)}
    if lost := [name for name, p in again.named_parameters() if id(p) not in covered]:
        raise Mismatch(
            f"{type(net).__name__} cannot be drawn afresh: the module of {lost[0]!r} has no reset_parameters"
        )
    nets = []
    with torch.random.fork_rng(devices=[]):
        for key in keys:
            torch.manual_seed(derive("fresh", key))
            for module in drawn:
                module.reset_parameters()  # type: ignore[operator]
            nets.append(nn.utils.parameters_to_vector(again.parameters()).detach())
    return torch.stack(nets).to(next(net.parameters()).device)


def descent_step(net: nn.Module, w_P: Tensor, x: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    """Take one step of gradient descent on the cross-entropy.

    w <- w - rate grad_w mean_r CE(f(x_r; w), y_r)

    Args:
        net: the architecture, as `scores` asks it.
        w_P: (P,) where it stands.
        x: (R, ...) data.
        y: (R,) classes.
        rate: () step size.

    Returns:
        (P,), which can be differentiated in w, x and rate unless gradients are switched off.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        w_P = w_P if w_P.requires_grad else w_P.detach().requires_grad_()
        slope_P = torch.autograd.grad(cross_entropy(scores(net, w_P, x), y), w_P, create_graph=keep)[0]
    return w_P - rate * slope_P


def unroll(
    net: nn.Module, w_P: Tensor, x: Tensor, y: Tensor, rate: Tensor, *, steps: int, recompute: bool = False
) -> Tensor:
    """Take many steps on the same rows, keeping what the gradient in w, x and rate needs.

    Args:
        net: the architecture.
        w_P: (P,) where to start.
        x: (R, ...) data.
        y: (R,) classes.
        rate: () step size.
        steps: how many.
        recompute: keep the weights of every step only and take each step again on the way back: the memory of one step
            and `steps` weight vectors in place of `steps` graphs, for about half as much time again.

    Returns:
        (P,) weights at the end.

    Example:
        >>> rows = torch.eye(2), torch.tensor([0, 1]), torch.tensor(0.1)
        >>> net = __import__("limbeck.adapters.modules", fromlist=["Plain"]).Plain(nn.Linear(2, 2))
        >>> begin = torch.zeros(6)
        >>> unroll(net, begin, *rows, steps=2).equal(unroll(net, begin, *rows, steps=2, recompute=True))
        True

    Source: Cui et al., arXiv:2211.10586, section 3, for the memory; the gradient here is that of the whole descent.
    """
    if recompute:
        end: Tensor = _Recomputed.apply(net, steps, w_P, x, y, rate)
        return end
    for _ in range(steps):
        w_P = descent_step(net, w_P, x, y, rate)
    return w_P


class _Recomputed(torch.autograd.Function):
    """A descent that is taken again, step by step from the last, when its gradient is asked for."""

    @staticmethod
    def forward(ctx: Any, net: nn.Module, steps: int, w: Tensor, x: Tensor, y: Tensor, rate: Tensor) -> Tensor:  # type: ignore[override]
        """Descend, remembering the weights before each step."""
        path = [w]
        for _ in range(steps):
            path.append(descent_step(net, path[-1], x, y, rate).detach())
        ctx.net = net
        ctx.save_for_backward(x, y, rate, *path[:-1])
        return path[-1]

    @staticmethod
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """Carry the adjoint of the weights back, a <- (d step / d w)' a, adding up those of x and rate."""
        x, y, rate, *path = ctx.saved_tensors
        total_x, total_rate = torch.zeros_like(x), torch.zeros_like(rate)
        for before in reversed(path):
            with torch.enable_grad():
                w, x_, rate_ = (t.detach().requires_grad_() for t in (before, x, rate))
                after = descent_step(ctx.net, w, x_, y, rate_)
                adjoint, of_x, of_rate = torch.autograd.grad(after, (w, x_, rate_), adjoint)
            total_x, total_rate = total_x + of_x, total_rate + of_rate
        return None, None, adjoint, total_x, None, total_rate
