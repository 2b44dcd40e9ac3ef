"""A player whose weights are those of another in a random order: what is inherited but their sizes is lost."""

from __future__ import annotations

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.part import Part, part
from limbeck.parts.truncated import truncated
from limbeck.players import Players
from limbeck.rng import Rng

__all__ = ["scrambled"]

TRUNCATED = truncated()


@part
def scrambled(players: Players, batch: Batch, *, builder: Part = TRUNCATED) -> nn.Module:
    """Build a player, and put the weights of each of its tensors in a random order.

    w_k <- w_pi(k) within every tensor, so that their sizes stay and what they mean is lost

    Args:
        players: those whom the builder asks.
        batch: what the builder reads.
        builder: a builder.
    """
    net: nn.Module = builder(players, batch)
    with torch.no_grad():
        for k, weight in enumerate(net.parameters()):
            places = torch.arange(weight.numel(), device=weight.device)
            order = Rng((*batch.rng.key, "scrambled", k), places).uniform("order").argsort()
            weight.copy_(weight.flatten()[order].view_as(weight))
    return net
