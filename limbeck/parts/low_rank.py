"""A critic that is the teacher with low-rank changes: it starts as the teacher, and little of it learns."""

from __future__ import annotations

import re

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.guidance import Guided
from limbeck.players import Players, copied
from limbeck.rng import derive

__all__ = ["low_rank_copy"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@part
def low_rank_copy(players: Players, batch: Batch, *, rank: int = 64, alpha: float = 108.0, seed: int = 0) -> nn.Module:
    """Copy the teacher, freeze the copy, and give its linear and convolutional layers low-rank changes that learn.

    w = w0 + (alpha / rank) b a

    A teacher under guidance is copied without: a critic follows the student's samples, which are no mixture of two
    fields.

    Args:
        players: the teacher has weights.
        batch: not read.
        rank: of the changes.
        alpha: their scale.
        seed: of the starting values of a; b starts at zero.

    Returns:
        The module; at first it answers as the teacher does.

    Raises:
        BadValue: a teacher without linear or convolutional layers, or a rank below 1.

    Source: Hu et al., arXiv:2106.09685; as a critic: Wang et al., arXiv:2305.16213.
    """
    import peft  # recipes name this part: reading them needs no model library

    net = copied(players.teacher)
    net = net.net if isinstance(net, Guided) else net
    names = [name for name, module in net.named_modules() if isinstance(module, LAYERS)]
    if not names or rank < 1:
        kind = type(players.teacher.module).__name__
        raise BadValue(f"low-rank changes need a rank of 1 or more and layers: rank {rank}, {len(names)} in {kind}")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules="|".join(map(re.escape, names)))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("low rank", seed))
        return peft.inject_adapter_in_model(config, net)
