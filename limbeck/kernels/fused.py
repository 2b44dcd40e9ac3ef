"""A weighted sum of token losses straight from hidden states, a few tokens' logits at a time.

sum_n w_n phi(logits_n, ...) and its gradients by the student's hidden states, output matrix and bias are formed
together, chunk by chunk of tokens, in the forward pass; the backward pass only multiplies. At no time are there more
logits than those of one chunk, for the student or the teacher.

Shapes: N tokens, D hidden size, V vocabulary.

Source: the chunked fusion of output layer and loss of Liger Kernel, arXiv:2410.10989, section 3.2, for any loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from limbeck.kernels.divergence import Pair
from limbeck.kernels.head import TokenHead, cap_slope

__all__ = ["fused_sum", "plain_sum", "rows_of_chunk"]

LEAST_ROWS = 128


def rows_of_chunk(head: TokenHead) -> int:
    """Choose how many tokens make a chunk: as many as have no more logits than all tokens have hidden numbers.

    Example:
        >>> rows_of_chunk(TokenHead(torch.empty(4096, 64), torch.empty(1024, 64)))
        256

    Source: the chunks of Liger Kernel, arXiv:2410.10989, section 3.2.
    """
    return max(LEAST_ROWS, head.hidden.numel() // head.size)


def fused_sum(student: TokenHead, weight_N: Tensor, pair: Pair, *given: Any, rows: int = 0) -> Tensor:
    """Compute sum_n w_n phi(student logits_n, given_n), never holding more than a chunk of logits.

    Args:
        student: the head of (N, D) rows; gradients go to its hidden states, matrix and bias.
        weight_N: the weights w; gradients go to them too, if they ask.
        pair: phi and its derivative by the student's logits.
        given: what phi compares with: heads of (N, D') rows, whose logits are made chunk by chunk too and which get
            no gradient, or tensors with first axis N.
        rows: tokens of a chunk; 0 chooses.

    Returns:
        (), in float32 or better.

    Example:
        >>> from limbeck.kernels.divergence import forward_kl_pair
        >>> head = TokenHead(torch.eye(3), torch.eye(3))
        >>> fused_sum(head, torch.ones(3), forward_kl_pair, head)
        tensor(0.)

    Source: the chunks of Liger Kernel, arXiv:2410.10989, section 3.2.
    """
    fixed = tuple(g.detach().cast() if isinstance(g, TokenHead) else g for g in given)
    plan = (student.softcap, student.scale, pair, fixed, rows or rows_of_chunk(student))
    total: Tensor = _FusedSum.apply(student.hidden, student.weight, student.bias, weight_N, plan)
    return total


def plain_sum(student: TokenHead, weight_N: Tensor, pair: Pair, *given: Any) -> Tensor:
    """Compute the same value as `fused_sum` from all logits at once: the reference, without gradients.

    Example:
        >>> from limbeck.kernels.divergence import forward_kl_pair
        >>> head = TokenHead(torch.eye(3), torch.eye(3))
        >>> plain_sum(head, torch.ones(3), forward_kl_pair, head)
        tensor(0.)
    """
    value_N, _ = pair(student.logits(), *(g.logits() if isinstance(g, TokenHead) else g for g in given))
    return (weight_N * value_N).sum()


class _FusedSum(torch.autograd.Function):
    """The sum, with gradients made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, matrix: Tensor, bias: Tensor | None, weight_N: Tensor, plan: tuple[Any, ...]
    ) -> Tensor:
        softcap, scale, pair, given, rows = plan
        head = TokenHead(hidden, matrix, bias, softcap, scale).cast()
        grads = _Gradients(head, *ctx.needs_input_grad[:3])
        values = []
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                at = slice(start, start + rows)
                logits = head.logits(at)
                value, slope = pair(logits, *(g.logits(at) if isinstance(g, TokenHead) else g[at] for g in given))
                values.append(value)
                slope = slope * (weight_N[at, None] * cap_slope(logits, scale, softcap))
                grads.add(at, slope.to(head.hidden.dtype))
            value_N = torch.cat(values) if values else weight_N.new_zeros(0)
        ctx.save_for_backward(*grads.done(hidden, matrix, bias), value_N)
        return (weight_N * value_N).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *parts, value_N = ctx.saved_tensors
        by_weight = grad * value_N if ctx.needs_input_grad[3] else None
        return *(None if part is None else part * grad.to(part.dtype) for part in parts), by_weight, None


class _Gradients:
    """Gradients of the head, summed over chunks; those of matrix and bias in float32 or better."""

    def __init__(self, head: TokenHead, hidden: bool, matrix: bool, bias: bool) -> None:
        exact = torch.promote_types(head.hidden.dtype, torch.float32)
        self.head = head
        self.hidden = torch.empty_like(head.hidden) if hidden else None
        self.matrix = torch.zeros_like(head.weight, dtype=exact) if matrix else None
        self.bias = torch.zeros_like(head.bias, dtype=exact) if bias and head.bias is not None else None

    def add(self, at: slice, slope: Tensor) -> None:
        """Add what the tokens of a chunk give; `slope` (n, V) is the derivative by the raw logits."""
        if self.hidden is not None:
            torch.mm(slope, self.head.weight, out=self.hidden[at])
        if self.matrix is not None:
            if self.matrix.dtype == slope.dtype:
                self.matrix.addmm_(slope.mT, self.head.hidden[at])
            else:
                self.matrix += slope.mT @ self.head.hidden[at]
        if self.bias is not None:
            self.bias += slope.sum(0, dtype=self.bias.dtype)

    def done(self, *like: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients in the dtypes of what they belong to."""
        made = (self.hidden, self.matrix, self.bias)
        return tuple(None if m is None or x is None else m.to(x.dtype) for m, x in zip(made, like, strict=True))
