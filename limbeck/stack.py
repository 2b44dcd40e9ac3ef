"""Stacks: n runs of a recipe side by side, as one run whose weights have a leading axis.

Small nets leave a processor idle between operations; n of them at once take little longer than one. The batch of a
stack holds the rows of the first run, then those of the second, and so on; a loss is a sum over rows, so that every
run gets the gradient of its own rows alone, and optimisers that look at single weights step each as if it were alone.

Shapes: N nets, R rows in all, K rows of a net.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from limbeck.batch import Batch
from limbeck.data import Source

__all__ = ["Stack", "StackedSource", "clip_each"]


class Stack(nn.Module):
    """N nets of one architecture that answer their own rows, all at once.

    Args:
        nets: the nets; they differ in weights and buffers only.

    Raises:
        RuntimeError: nets whose weights differ in shape.

    Example:
        >>> from limbeck.adapters.modules import Plain
        >>> nets = [Plain(nn.Linear(3, 2)) for _ in range(2)]
        >>> Stack(nets).weights["net/weight"].shape
        torch.Size([2, 2, 3])
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, buffers = stack_module_state(list(nets))
        self.size, self._bone = len(nets), [copy.deepcopy(nets[0])]  # in a list: it has no weights of its own
        self.weights = nn.ParameterDict({_slashed(k): nn.Parameter(v.detach()) for k, v in weights.items()})
        for name, own in nets[0].named_parameters():
            self.weights[_slashed(name)].requires_grad_(own.requires_grad)
        self.held = nn.Module()
        for name, value in buffers.items():
            self.held.register_buffer(_slashed(name), value)

    def train(self, mode: bool = True) -> Stack:
        """Learn, or evaluate."""
        self._bone[0].train(mode)
        return super().train(mode)

    def __getattr__(self, name: str) -> Any:
        """Reach what the nets have in common besides weights."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_bone"][0], name)

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, Any]:
        """Answer what is wanted, every net its own rows.

        Args:
            batch: R rows; the seat of each in `batch.rng` is the number of its net.
            want: names of answers that are tensors with a row axis.
        """
        into_NK, back_R = _shares(batch.rng.seat, self.size)
        columns = {k: c[into_NK] for k, c in batch.items() if isinstance(c, Tensor)}

        def one(state: dict[str, Tensor], columns: dict[str, Tensor]) -> dict[str, Tensor]:
            return functional_call(self._bone[0], state, (columns, want))

        answers = torch.vmap(one)(self._state(), columns)
        return {k: v.flatten(0, 1)[back_R] for k, v in answers.items()}

    def apart(self) -> list[dict[str, Tensor]]:
        """The state of each net, by the names that it has there."""
        state = self._state()
        return [{k: state[k].detach()[i].clone() for k in self._bone[0].state_dict()} for i in range(self.size)]

    def _state(self) -> dict[str, Tensor]:
        """Weights and buffers by the names that they have in a single net, with a leading axis."""
        return {k.replace("/", "."): v for k, v in [*self.weights.items(), *self.held.named_buffers()]}


def _slashed(name: str) -> str:
    return name.replace(".", "/")


def _shares(seat_R: Tensor, nets: int) -> tuple[Tensor, Tensor]:
    """Deal rows out to nets: (N, K) the rows of each, repeated where it has fewer; (R,) where each row's answer is."""
    count_N = torch.bincount(seat_R, minlength=nets)
    most = int(count_N.max())
    first_N = count_N.cumsum(0) - count_N
    order_R = seat_R.argsort(stable=True)
    inside_NK = torch.arange(most, device=seat_R.device).minimum((count_N - 1).clamp(min=0)[:, None])
    into_NK = order_R[(first_N[:, None] + inside_NK).clamp(max=len(seat_R) - 1)]
    back_R = torch.empty_like(seat_R)
    back_R[order_R] = (
        seat_R[order_R] * most + torch.arange(len(seat_R), device=seat_R.device) - first_N[seat_R[order_R]]
    )
    return into_NK, back_R


class StackedSource:
    """The data of N runs, each of which takes the rows of its own.

    Args:
        sources: sources of one length and the same columns.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)

    def __len__(self) -> int:
        return len(self.sources[0])

    def take(self, rows: Tensor) -> Mapping[str, Any]:
        """Return the columns of the first share of `rows` from the first source, and so on."""
        shares = rows.chunk(len(self.sources))
        taken = [source.take(share) for source, share in zip(self.sources, shares, strict=True)]
        names = [k for k, c in taken[0].items() if isinstance(c, Tensor)]
        return {k: torch.cat([t[k] for t in taken]) for k in names}  # type: ignore[misc]

    @property
    def fingerprint(self) -> str:
        """The fingerprints of all."""
        return " ".join(source.fingerprint for source in self.sources)


@torch.no_grad()
def clip_each(params: Sequence[nn.Parameter], most: float) -> None:
    """Scale the gradients of every net in a stack so that their norm is at most so much.

    Args:
        params: (N, ...) weights of the stack, with gradients.
        most: the largest norm of one net's gradient.
    """
    grads = [p.grad for p in params if p.grad is not None]
    norm_N = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
    scale_N = (most / (norm_N + 1e-6)).clamp(max=1.0)  # the same small number as in clip_grads_with_norm_
    for g in grads:
        g.mul_(scale_N.view(-1, *[1] * (g.ndim - 1)))
