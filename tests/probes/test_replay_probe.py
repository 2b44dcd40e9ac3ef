"""Tokens that were generated are counted, each once."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.parts.replay import Replay
from limbeck.players import Player, Players
from limbeck.probes.replay import spoken
from limbeck.roles import frozen


def test_tokens_are_counted_without_their_prompts() -> None:
    memory = Replay(2, 5, 1, 0.0)
    rows = {
        "tokens": torch.ones(3, 5, dtype=torch.long),
        "length": torch.tensor([5, 4, 2]),
        "prompt": torch.ones(3).long(),
    }
    for _ in range(2):
        memory.push(Batch(rows))
    assert spoken()(Players({"replay": Player("replay", frozen(), memory)}), {}) == 2 * (4 + 3 + 1) / 1000


def test_what_counts_nothing_is_refused() -> None:
    with pytest.raises(BadValue, match="no memory of own answers"):
        spoken()(Players({"replay": Player("replay", frozen(), torch.nn.Linear(1, 1))}), {})
