"""What a black box was asked."""

from __future__ import annotations

from collections.abc import Mapping

from limbeck.data import Source
from limbeck.part import part
from limbeck.players import Players

__all__ = ["excess_queries"]


@part
def excess_queries(players: Players, data: Mapping[str, Source]) -> float:
    """How far the number of answered queries is from one for every prompt and every row to learn from or choose on.

    | asked - P (N_train + N_valid) |

    Args:
        players: `teacher` counts in `asked` what it has answered; `student` has P prompts.
        data: the splits "train" and "valid".

    Returns:
        A number of queries; probes that ask the black box come after this one.
    """
    budget = len(players.student.prompts) * sum(len(data[split]) for split in ("train", "valid") if split in data)
    return float(abs(players.teacher.asked - budget))
