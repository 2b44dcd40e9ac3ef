"""Privileged contexts: what a player is told that the student is not, put into the prompt as its chat template has it.

A player in the role `self_under("student", told(...))` sees rows with more in the prompt and the same targets; what it
answers is brought back to the places of the plain rows, so that losses compare token by token:

    batch = remembered() >> rollout()                              # keep the given answer, then say one's own
    "teacher": self_under("student", told(column="reference"))     # who has read the given one

Shapes: B rows, T tokens, T' tokens with what is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue
from limbeck.part import part
from limbeck.parts.transcript import PLACE, answers
from limbeck.players import Players

__all__ = ["inserted", "remembered", "told", "turn_end"]

REFERENCE = (
    "\n\nHere is a reference solution to this problem:\n{told}\n\n"
    "After understanding the reference solution, please try to solve this problem using your own approach below:"
)


@part
def remembered(players: Players, batch: Batch, *, column: str = "reference") -> Batch:
    """Keep the answers of rows as text, before others take their place.

    Args:
        players: the student, whose tokenizer reads them.
        batch: columns `tokens` and `mask`, which is true on the answer.
        column: where they are kept.

    Raises:
        BadValue: a student without a tokenizer.
    """
    return batch.with_(**{column: answers(players.student, batch)})


def turn_end(tokenizer: Any) -> list[int]:
    """The tokens that a chat template writes from the end of what the user says to the answer; none without a template.

    Raises:
        BadData: a template that leaves out what the user says.
    """
    if not getattr(tokenizer, "chat_template", None):
        return []
    asked = [{"role": "user", "content": PLACE}]
    whole = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    if PLACE not in whole:
        raise BadData("the chat template leaves out what the user says, so that nothing can be told to it")
    return list(tokenizer(whole.rpartition(PLACE)[2], add_special_tokens=False)["input_ids"])


def inserted(batch: Batch, pieces: Sequence[Sequence[int]], end: Sequence[int], pad: int) -> Batch:
    """Put tokens into prompts, before the end of the user's turn.

    Args:
        batch: columns `tokens`, `mask` (B, T), `length` and `prompt` (B,).
        pieces: the tokens for each row; none leaves the row as it is.
        end: the tokens of a prompt that the answer follows; a prompt without them is continued behind its last token.
        pad: the id that fills padding.

    Returns:
        The batch with new `tokens`, `mask`, `length` and `prompt`, and with `place` (B, T): where the state that
        predicts what follows each old token now stands.

    Example:
        >>> rows = {"tokens": torch.tensor([[5, 6, 7]]), "mask": torch.tensor([[False, False, True]])}
        >>> batch = Batch({**rows, "length": torch.tensor([3]), "prompt": torch.tensor([2])})
        >>> made = inserted(batch, [[8, 9]], [6], pad=0)
        >>> made.tokens.tolist(), made.mask.tolist()[0], made.place.tolist()
        ([[5, 8, 9, 6, 7]], [False, False, False, False, True], [[0, 3, 4]])
    """
    rows, marks, n = [], [], len(end)
    for tokens, mask, length, prompt, piece in zip(
        batch.tokens, batch.mask, batch.length.tolist(), batch.prompt.tolist(), pieces, strict=True
    ):
        at = prompt - n if n and tokens[prompt - n : prompt].tolist() == list(end) else prompt
        rows.append(torch.cat((tokens[:at], tokens.new_tensor(piece), tokens[at:length])))
        marks.append(torch.cat((mask[:at], mask.new_zeros(len(piece)), mask[at:length])))
    extra_B = torch.tensor([len(piece) for piece in pieces], device=batch.device)
    tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    at_T = torch.arange(batch.tokens.shape[1], device=batch.device)
    place_BT = at_T + extra_B[:, None] * (at_T >= batch.prompt[:, None] - 1)
    return batch.with_(
        tokens=tokens_BT,
        mask=torch.nn.utils.rnn.pad_sequence(marks, batch_first=True),
        length=batch.length + extra_B,
        prompt=batch.prompt + extra_B,
        place=place_BT.clamp(max=tokens_BT.shape[1] - 1),
    )


@part
def told(players: Players, batch: Batch, *, column: str = "reference", template: str = REFERENCE) -> Batch:
    """Show a player more than the student is shown: a text behind what the user asks.

    x -> [x, told(c)], the same y

    Args:
        players: the student, whose tokenizer and chat template write it.
        batch: columns `tokens`, `mask`, `length`, `prompt`, and `column`, a text for each row; the empty text tells
            nothing, and the row stays as it is.
        column: what is told: the reference of `remembered`, or a column of the rows.
        template: how it is put, with `{told}` in its place.

    Returns:
        The batch with new `tokens`, `mask`, `length` and `prompt`, and `place` (see `inserted`).

    Raises:
        BadValue: a template without its place, or a student without a tokenizer.
        BadData: a row that is longer than the student's context once it is told.

    Source: Zhao et al., "Self-Distilled Reasoner: On-Policy Self-Distillation for Large Language Models" (the
    privileged teacher).
    """
    student = players.student
    if "{told}" not in template:
        raise BadValue("the template of a context needs {told}, where the text is put")
    if getattr(student, "tokenizer", None) is None:
        raise BadValue(f"the player {student.name!r} has no tokenizer, so it cannot be told anything")
    texts = [template.replace("{told}", str(text)) if text else "" for text in batch[column]]
    pieces = [student.tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in texts]
    made = inserted(batch, pieces, turn_end(student.tokenizer), student.pad)
    at = int(made.length.argmax())
    row, length = int(batch.get("index", torch.arange(batch.size))[at]), int(made.length[at])
    if student.context and length > student.context:
        raise BadData(
            f"row {row}: {length} tokens with what is told exceed the context of {student.name}, "
            f"{student.context} tokens; tell less of {column!r}"
        )
    return made
