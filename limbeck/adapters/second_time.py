"""A second time for nets that know one: where a jump ends. It says nothing at first, and learns to.

    e(t) -> e(t) + W2 silu(W1 waves(t - s)),  W2 = 0 at first

A net with one time so becomes a flow map that starts as its own field, at every s.

Shapes: B rows, D features of the embedding of time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import BadWeights

__all__ = ["SecondTime"]

WAVES = 8


class SecondTime(nn.Module):
    """What is added to every embedding of time.

    Args:
        width: D.

    Example:
        >>> SecondTime(4)(torch.tensor([0.5])).tolist()
        [[0.0, 0.0, 0.0, 0.0]]

    Source: two times as in Geng et al., arXiv:2505.13447, section 4.3, which embeds t and t - s.
    """

    rates: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2 * WAVES, width), nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.register_buffer("rates", math.pi * 2.0 ** torch.linspace(-1, 3, WAVES), persistent=False)

    def forward(self, ahead: Tensor) -> Tensor:
        """What t - s, (B,), adds: (B, D)."""
        angle = ahead[:, None] * self.rates
        found: Tensor = self.outer(nn.functional.silu(self.inner(torch.cat((angle.sin(), angle.cos()), 1))))
        return found

    @classmethod
    def of(cls, model: nn.Module) -> SecondTime:
        """A second time that fits a model of diffusers.

        Raises:
            BadWeights: a model whose embedding of time is not known.
        """
        place = _embeddings(model)[0]
        last = [m for m in place.modules() if isinstance(m, nn.Linear)][-1]
        return cls(last.out_features).to(next(model.parameters()))

    @contextmanager
    def told(self, model: nn.Module, ahead: Tensor) -> Iterator[None]:
        """While this stands, the model's embeddings of time know where the jump ends.

        Args:
            model: of diffusers.
            ahead: t - s, (B,).
        """
        more = self(ahead)

        def add(module: nn.Module, given: Any, out: Tensor) -> Tensor:
            return out + more.to(out.dtype)

        with ExitStack() as hooks:
            for place in _embeddings(model):
                hooks.enter_context(place.register_forward_hook(add))
            yield


def _embeddings(model: nn.Module) -> list[nn.Module]:
    """The modules that embed time: one of a UNet, one a block of a transformer."""
    if hasattr(model, "time_embedding"):
        return [model.time_embedding]  # type: ignore[list-item]
    found = [m for n, m in model.named_modules() if n.endswith("timestep_embedder")]
    if not found:
        raise BadWeights(f"{type(model).__name__} embeds no time that is known, so it cannot be given a second one")
    return found
