"""A teacher that knows nothing: the student, but for noise in its logits.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.kernels.head import TokenHead
from limbeck.part import part
from limbeck.players import Players, copied

__all__ = ["Noisy", "noisy"]


class Noisy(nn.Module):
    """A language model with normal noise in its logits, fresh at every place, from the streams of the rows.

    Args:
        net: the language model.
        scale: the deviation of the noise.
    """

    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale
        self.family: str = getattr(net, "family", "")

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, Any]:
        """Answer `logits` (B, T, V) and `head`, whose hidden states are the logits."""
        logits = self.net(batch, frozenset({"logits"}))["logits"]
        logits = logits + self.scale * batch.rng.fold("noisy").normal("logit", *logits.shape[1:]).to(logits.dtype)
        head = TokenHead(logits, torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device))
        return {"logits": logits, "head": head}


@part
def noisy(players: Players, batch: Batch, *, scale: float = 1.0) -> nn.Module:
    """Copy the student and put noise into its logits: whatever favours this teacher over chance is no knowledge.

    z + scale e, e ~ N(0, 1) for every place and token

    Args:
        players: `student`.
        batch: not read.
        scale: the deviation of the noise.
    """
    return Noisy(copied(players.student), scale)
