"""Revision: a player that has read an answer and its reward, and answers again.

A recipe tells the reviser both in its context; what it then says to the same prompt is learned, or its distributions
teach the player that gave the answer:

    rollout() >> graded() >> attempted() >> said_under(context=told(column="attempt"))
    "teacher": self_under("past", told(column="attempt"))

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.parts.transcript import answers
from limbeck.players import Players

__all__ = ["attempted"]

RIGHT = "\n\nThis answer is correct. Say it again, more concisely."
WRONG = "\n\nThis answer is wrong. Start over."


@part
def attempted(
    players: Players,
    batch: Batch,
    *,
    right: str = RIGHT,
    wrong: str = WRONG,
    least: float = 1.0,
    column: str = "attempt",
) -> Batch:
    """Keep every answer as text, with what its reward says of it behind it.

    c_i = [y_i, right if r_i >= least else wrong]

    Args:
        players: the student, whose tokenizer reads the answers.
        batch: columns `tokens`, `mask` and `reward` (B,).
        right: said behind a right answer.
        wrong: said behind another.
        least: the least reward of a right answer.
        column: where the text is put.

    Raises:
        BadValue: a student without a tokenizer.

    Source: He et al., "Self-Distillation Zero", arXiv:2604.12002 (the control phrases of its reviser).
    """
    marked = zip(answers(players.student, batch), (batch["reward"] >= least).tolist(), strict=True)
    return batch.with_(**{column: [text + (right if good else wrong) for text, good in marked]})
