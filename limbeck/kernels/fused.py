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

__all__ = ["fused_sum", "plain_sum", "rows_of_chunk", "rows_of_tile"]

LEAST_ROWS = 512
TILE = 2**18  # numbers of a tensor that a core's cache holds beside its like
BLOCK = 4096


def rows_of_chunk(head: TokenHead) -> int:
    """Choose how many tokens make a chunk: as many as have no more logits than all tokens have hidden numbers.

    It is at least 512: a matrix product reads the whole output matrix, whatever the number of tokens, and on CPUs takes
    a quarter longer per token with 128 of them.

    Example:
        >>> rows_of_chunk(TokenHead(torch.empty(4096, 64), torch.empty(256, 64)))
        1024

    Source: the chunks of Liger Kernel, arXiv:2410.10989, section 3.2.
    """
    return max(LEAST_ROWS, head.hidden.numel() // head.size)


def fused_sum(student: TokenHead, weight_N: Tensor, pair: Pair, *given: Any, rows: int = 0) -> Tensor:
    """Compute sum_n w_n phi(student logits_n, given_n), never holding more than a chunk of logits.

    A token whose weight is 0 is left out, even where phi is infinite, and costs nothing.

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
        >>> from limbeck.kernels.divergence import Divergence, forward_kl_terms
        >>> head = TokenHead(torch.eye(3), torch.eye(3))
        >>> fused_sum(head, torch.ones(3), Divergence(forward_kl_terms), head)
        tensor(0.)

    Source: the chunks of Liger Kernel, arXiv:2410.10989, section 3.2.
    """
    if not weight_N.requires_grad and not (counts := weight_N != 0).all():
        student, weight_N = student.at(counts), weight_N[counts]
        given = tuple(g.at(counts) if isinstance(g, TokenHead) else g[counts] for g in given)
    fixed = tuple(g.detach().cast() if isinstance(g, TokenHead) else g for g in given)
    plan = (student.softcap, student.scale, pair, fixed, rows or rows_of_chunk(student))
    total: Tensor = _FusedSum.apply(student.hidden, student.weight, student.bias, weight_N, plan)
    return total


@torch.no_grad()
def plain_sum(student: TokenHead, weight_N: Tensor, pair: Pair, *given: Any) -> Tensor:
    """Compute the same value as `fused_sum` from all logits at once: the reference, without gradients.

    Example:
        >>> from limbeck.kernels.divergence import Divergence, forward_kl_terms
        >>> head = TokenHead(torch.eye(3), torch.eye(3))
        >>> plain_sum(head, torch.ones(3), Divergence(forward_kl_terms), head)
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
        chunks = _Chunks(head, rows)
        others = [_Chunks(g, rows) if isinstance(g, TokenHead) else _Column(g) for g in given]
        value_N = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                at = slice(start, start + rows)
                for made in (chunks, *others):
                    made.make(at)
                _tiled(pair, chunks, others, weight_N[at], value_N[at])
                grads.add(at, chunks.chunk)
        ctx.save_for_backward(*grads.done(hidden, matrix, bias), value_N)
        return (weight_N * value_N).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *parts, value_N = ctx.saved_tensors
        by_weight = grad * value_N if ctx.needs_input_grad[3] else None
        return *(None if part is None else part * grad.to(part.dtype) for part in parts), by_weight, None


class _Chunks:
    """The logits of a head, a chunk at a time, in one buffer that is used over and over."""

    def __init__(self, head: TokenHead, rows: int) -> None:
        self.head = head
        self.buffer = head.hidden.new_empty(min(rows, len(head.hidden)), head.size)

    def make(self, at: slice) -> Tensor:
        """Make the raw logits (n, V) of some tokens; they stand until others are made."""
        hidden, weight, bias = self.head.hidden[at], self.head.weight, self.head.bias
        self.chunk = self.buffer[: len(hidden)]
        if bias is None:
            return torch.mm(hidden, weight.mT, out=self.chunk)
        return torch.addmm(bias, hidden, weight.mT, out=self.chunk)

    def __getitem__(self, tile: slice) -> Tensor:
        """Logits of some tokens of the chunk, which may be the raw ones themselves."""
        return self.head.finish(self.chunk[tile])


class _Column(_Chunks):
    """Numbers of the tokens, a chunk at a time."""

    def __init__(self, column: Tensor) -> None:
        self.column = column

    def make(self, at: slice) -> Tensor:
        self.chunk = self.column[at]
        return self.chunk

    def __getitem__(self, tile: slice) -> Tensor:
        return self.chunk[tile]


def _tiled(pair: Pair, student: _Chunks, given: list[_Chunks], weight: Tensor, value: Tensor) -> None:
    """Turn a chunk of logits into weighted derivatives, in place, a few rows at a time; the values go to `value`.

    Nothing small that outlives a tile is made between its tensors, or the allocator could not use their room again.
    """
    head, step = student.head, rows_of_tile(student.chunk)
    for start in range(0, len(weight), step):
        tile = slice(start, start + step)
        logits = student[tile]
        value[tile], slope = pair(logits, *(g[tile] for g in given))
        by_raw = weight[tile, None] * cap_slope(logits, head.scale, head.softcap)
        torch.mul(slope, by_raw, out=student.chunk[tile])


def rows_of_tile(logits: Tensor) -> int:
    """Choose how many rows of a chunk go through a loss together: on a CPU, what its cache holds of them; else all.

    Example:
        >>> rows_of_tile(torch.empty(3, 2**20)) == torch.get_num_threads()
        True
    """
    if logits.device.type != "cpu":
        return len(logits)
    return torch.get_num_threads() * max(1, TILE // logits.shape[-1])


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
                for start in range(0, len(self.matrix), BLOCK):
                    some = slice(start, start + BLOCK)
                    self.matrix[some] += slope[:, some].mT @ self.head.hidden[at]
        if self.bias is not None:
            self.bias += slope.sum(0, dtype=self.bias.dtype)

    def done(self, *like: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients in the dtypes of what they belong to."""
        made = (self.hidden, self.matrix, self.bias)
        return tuple(None if m is None or x is None else m.to(x.dtype) for m, x in zip(made, like, strict=True))
