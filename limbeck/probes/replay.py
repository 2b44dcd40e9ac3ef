"""What own answers cost that were learned from."""

from __future__ import annotations

from collections.abc import Mapping

from limbeck.data import Source
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.replay import Replay
from limbeck.players import Players

__all__ = ["spoken"]


@part
def spoken(players: Players, data: Mapping[str, Source]) -> float:
    """The tokens that the student generated in order to learn, in thousands.

    Args:
        players: the state player `replay` of `limbeck.parts.replay`.
        data: not read.

    Raises:
        BadValue: `replay` is no memory of own answers.
    """
    memory = players.replay.module
    if not isinstance(memory, Replay):
        raise BadValue("the player 'replay' is no memory of own answers, so nobody counted its tokens")
    return float(memory.spoken) / 1000
