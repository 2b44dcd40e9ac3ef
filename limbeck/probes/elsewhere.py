"""Measures taken on another split than "test", or on another player: what was learnt before, what others do."""

from __future__ import annotations

from collections.abc import Mapping

from limbeck.data import Source
from limbeck.errors import unknown
from limbeck.part import Part, part
from limbeck.players import Players
from limbeck.probes.language import answer_accuracy, nll

__all__ = ["behind_best", "on_split"]


@part(higher=True)
def on_split(
    players: Players, data: Mapping[str, Source], *, of: Part = answer_accuracy(), split: str = "old"
) -> float:
    """Take a measure on another split.

    of(players, data[split])

    Args:
        players: as the measure asks them.
        data: the splits.
        of: the measure.
        split: the split that stands for "test".

    Raises:
        UnknownName: no such split.
    """
    if split not in data:
        raise unknown("split", split, data)
    return float(of(players, {**data, "test": data[split]}))


@part
def behind_best(
    players: Players,
    data: Mapping[str, Source],
    *,
    of: Part = nll(),
    rivals: tuple[str, ...] = ("teacher",),
    lead: float = 0.0,
) -> float:
    """What the student lacks of being better than all rivals, by a lead.

    max(0, of(student) + lead - min_r of(r)), where less is better

    Args:
        players: the student and the rivals.
        data: as the measure reads it.
        of: the measure, which asks the player "student".
        rivals: the players to be better than.
        lead: by how much.
    """
    mine, *theirs = (float(of(players.renamed({"student": name}), data)) for name in ("student", *rivals))
    return max(0.0, mine + lead - min(theirs))
