"""The head of a language model: everything that makes logits, with the logits left unmade.

A vocabulary of 150,000 tokens makes logits the largest tensors of a training step by far. A `TokenHead` carries the
last hidden states and the output matrix instead, so that a loss can make the logits a few tokens at a time.

Shapes: B rows, T tokens, N selected positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree

from limbeck.errors import Mismatch

__all__ = ["TokenHead", "cap", "cap_slope"]


@dataclass(frozen=True, eq=False)
class TokenHead:
    """Hidden states and what turns them into logits.

    logits = cap tanh(z / cap) with z = scale (hidden weight' + bias), or z itself where there is no cap.

    Args:
        hidden: (..., D), the last hidden states, after the final norm.
        weight: (V, D), the output matrix.
        bias: (V,), or None.
        softcap: the bound that the logits are squashed to, or None.
        scale: a factor of the logits, before the cap.

    Raises:
        Mismatch: hidden states and an output matrix of different width.

    Example:
        >>> head = TokenHead(torch.ones(2, 3, 4), torch.ones(5, 4))
        >>> head.size, head.logits().shape
        (5, torch.Size([2, 3, 5]))
        >>> head.predicting(torch.tensor([[False, True, True], [False, False, False]])).hidden.shape
        torch.Size([2, 4])
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        # pytree utilities rebuild the head with placeholders in the fields, which have no shape
        tensors = isinstance(self.hidden, Tensor) and isinstance(self.weight, Tensor)
        if tensors and self.hidden.shape[-1] != self.weight.shape[-1]:
            raise Mismatch(
                f"hidden states of width {self.hidden.shape[-1]} and an output matrix {tuple(self.weight.shape)}"
            )

    @property
    def size(self) -> int:
        """The number of tokens of the vocabulary, V."""
        return len(self.weight)

    def at(self, where: Tensor) -> TokenHead:
        """Keep some positions.

        Args:
            where: a bool mask of the leading axes of `hidden`.

        Returns:
            The head of the (N, D) rows where the mask is true, in the order of the mask.

        Example:
            >>> head = TokenHead(torch.ones(2, 3, 4), torch.ones(5, 4))
            >>> head.at(torch.tensor([[True, False, False], [True, True, False]])).hidden.shape
            torch.Size([3, 4])
        """
        return replace(self, hidden=self.hidden[where])

    def predicting(self, mask_BT: Tensor) -> TokenHead:
        """Keep the positions that predict the targets: token t is predicted by the hidden state at t - 1.

        Args:
            mask_BT: bool, which tokens are targets; its first column is never read, since nothing predicts it.

        Returns:
            The head of (N, D) rows, in the order of `tokens[mask]`.
        """
        return replace(self, hidden=self.hidden[:, :-1][mask_BT[:, 1:]])

    def first(self, size: int) -> TokenHead:
        """Keep the first tokens of the vocabulary: the true ones, where the matrix is padded.

        Raises:
            Mismatch: a matrix smaller than that.

        Example:
            >>> TokenHead(torch.ones(1, 4), torch.ones(8, 4)).first(5).size
            5
        """
        if size > self.size:
            raise Mismatch(f"the output matrix has {self.size} tokens, fewer than the tokenizer's {size}")
        if size == self.size:
            return self
        return replace(self, weight=self.weight[:size], bias=None if self.bias is None else self.bias[:size])

    def detach(self) -> TokenHead:
        """Return the head without its history."""
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, hidden=self.hidden.detach(), weight=self.weight.detach(), bias=bias)

    def cast(self) -> TokenHead:
        """Return the head with matrix and bias in the dtype of the hidden states, as mixed precision needs it."""
        bias = None if self.bias is None else self.bias.to(self.hidden.dtype)
        return replace(self, weight=self.weight.to(self.hidden.dtype), bias=bias)

    def logits(self, rows: slice | None = None) -> Tensor:
        """Make the logits, of all positions or of some.

        Args:
            rows: a slice of the first axis of `hidden`.

        Returns:
            (..., V), float32 for half precision, else in the dtype of the model.

        Example:
            >>> TokenHead(torch.eye(2), 2 * torch.eye(2)).logits(slice(0, 1))
            tensor([[2., 0.]])
        """
        head = self.cast()
        return self.finish(F.linear(head.hidden if rows is None else head.hidden[rows], head.weight, head.bias))

    def finish(self, raw: Tensor) -> Tensor:
        """Turn products of hidden states and matrix (..., V) into logits, in float32 or better.

        Example:
            >>> TokenHead(torch.eye(2), torch.eye(2), scale=2.0).finish(torch.tensor([1.0, 3.0]))
            tensor([2., 6.])
        """
        return cap(raw if raw.dtype == torch.float64 else raw.float(), self.scale, self.softcap)

    def chunks(self, rows: int) -> Iterator[Tensor]:
        """Make the logits chunk by chunk along the first axis of `hidden`; each is (rows or fewer, ..., V).

        Example:
            >>> [len(chunk) for chunk in TokenHead(torch.eye(3), torch.eye(3)).chunks(2)]
            [2, 1]
        """
        for start in range(0, len(self.hidden), rows):
            yield self.logits(slice(start, start + rows))


def cap(raw: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Scale and squash raw logits: c tanh(s z / c).

    Example:
        >>> cap(torch.tensor([0.0, 1e6]), 1.0, 30.0)
        tensor([ 0., 30.])

    Source: Gemma Team, "Gemma 2", arXiv:2408.00118, section 2 (logit soft-capping).
    """
    scaled = raw if scale == 1.0 else raw * scale
    return scaled if softcap is None else softcap * torch.tanh(scaled / softcap)


def cap_slope(logits: Tensor, scale: float, softcap: float | None) -> Tensor | float:
    """The derivative of `cap` by the raw logits, from its result: s (1 - (logits / c)^2).

    Example:
        >>> cap_slope(torch.tensor([0.0, 30.0]), 2.0, 30.0)
        tensor([2., 0.])
    """
    return scale if softcap is None else scale * (1 - (logits / softcap).square())


# as a pytree node, the head is seen by whatever looks for tensors in outputs: FSDP's hooks, torch.func, torch.compile
_pytree.register_dataclass(TokenHead)
