"""What a student gained over a player that stands still.

Shapes: N test rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from limbeck.data import Source
from limbeck.part import Part, part
from limbeck.players import Players
from limbeck.probes.language import answer_accuracy, last_number

__all__ = ["answer_gain"]


@part(higher=True)
def answer_gain(
    players: Players,
    data: Mapping[str, Source],
    *,
    verifier: Part = last_number(),
    than: str = "teacher",
    samples: int = 1,
    limit: int = 256,
    max_new_tokens: int = 64,
) -> float:
    """By how much the student's answers are right more often than another player's.

    (1/N) sum_i r(y_i) - r(y'_i), y_i ~ student(. | x_i), y'_i ~ other(. | x_i)

    Both draw with the same random numbers, so equal players give 0.

    Args:
        players: the player "student" and the other.
        data: the splits.
        verifier: gives r, a mark in [0, 1].
        than: the name of the other.
        samples: completions of each prompt.
        limit: prompts that are asked, the first of the split; 0 for all.
        max_new_tokens: where a completion is cut.

    Raises:
        BadValue: a player without a tokenizer.
    """
    asked = {"verifier": verifier, "samples": samples, "limit": limit, "max_new_tokens": max_new_tokens}
    accuracy = answer_accuracy(**asked)
    return float(accuracy(players, data) - accuracy(players.renamed({"student": than}), data))
