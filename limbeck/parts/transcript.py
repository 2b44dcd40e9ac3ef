"""Conversations of two turns: an answer, a request to correct it, a second answer; and which of them are kept.

A row of language data becomes a conversation in steps, all of them batch parts that pipe into each other:

    repeated(copies=5) >> rollout() >> requested() >> rollout() >> improved()

The first answer stays as it was sampled, token by token; the request is put behind it as the player's chat template
has it. Only the second answer is a target.

Shapes: B rows, T tokens. A mark is a number in [0, 1] that a verifier, a part `(completion, row)`, gives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue
from limbeck.part import Part, part
from limbeck.players import Player, Players
from limbeck.rng import Rng

__all__ = [
    "accepted",
    "answers",
    "contains_answer",
    "improved",
    "marks",
    "repeated",
    "request_text",
    "requested",
    "take",
]

REQUEST = "There may be a mistake in your answer. Check it, then give the best answer that you can."
PLACE = "@@an-answer@@"  # stands for an answer where a template is rendered; no template holds it


@part
def contains_answer(completion: str, row: Mapping[str, Any]) -> float:
    """Mark a completion 1 if the text in the column `answer` occurs in it, whatever case, spaces and punctuation.

    Example:
        >>> [contains_answer.fn(said, {"answer": "the Nile"}) for said in ("It is the  nile.", "The Niles")]
        [1.0, 0.0]

    Raises:
        BadData: rows without the column.
    """
    if "answer" not in row:
        raise BadData("the rows have no column 'answer' to check completions against")
    said, truth = (" ".join(re.findall(r"\w+", str(text).lower())) for text in (completion, row["answer"]))
    return float(f" {truth} " in f" {said} ")


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return the rows of a batch in this order, any number of times, each with its random streams.

    Args:
        batch: the batch.
        rows: places in it; none gives a batch without rows.

    Example:
        >>> take(Batch({"x": torch.arange(3)}), [2, 2, 0]).x.tolist()
        [2, 2, 0]
    """
    at = torch.tensor(rows, dtype=torch.long, device=batch.device)
    columns = {k: c[at] if isinstance(c, Tensor) else [c[i] for i in rows] for k, c in batch.columns.items()}
    return replace(batch, columns=columns, rng=Rng(batch.rng.key, batch.rng.rows[at]), counts={}, memo={})


@part
def repeated(players: Players, batch: Batch, *, copies: int = 5) -> Batch:
    """Put several copies of every row one after the other, with random streams of their own: one for each sample.

    Args:
        players: not asked.
        batch: the rows.
        copies: of each row.

    Raises:
        BadValue: fewer than one copy.
    """
    if copies < 1:
        raise BadValue(f"repeated needs copies >= 1, got {copies}")
    made = take(batch, [b for b in range(batch.size) for _ in range(copies)])
    turn_B = torch.arange(made.size, device=batch.device) % copies
    return replace(made, rng=Rng(made.rng.key, made.rng.rows * copies + turn_B))


def answers(player: Player, batch: Batch) -> list[str]:
    """The texts of the targets of a batch, special tokens left out.

    Args:
        player: a player whose net has a tokenizer.
        batch: columns `tokens` and `mask` (B, T).

    Raises:
        BadValue: a player without a tokenizer.
    """
    if getattr(player, "tokenizer", None) is None:
        raise BadValue(f"the player {player.name!r} has no tokenizer, so what it says cannot be read")
    pieces = [tokens[mask] for tokens, mask in zip(batch.tokens, batch.mask, strict=True)]
    return [str(player.tokenizer.decode(piece, skip_special_tokens=True)) for piece in pieces]


def request_text(tokenizer: Any, request: str) -> str:
    """What a chat template writes from the end of an answer to the beginning of the next, a request between them.

    Args:
        tokenizer: of the player; without a template the request stands between empty lines.
        request: what the user says.

    Raises:
        BadData: a template that does not show earlier answers.

    Example:
        >>> from types import SimpleNamespace
        >>> request_text(SimpleNamespace(chat_template=None), "Sure?")
        '\\n\\nSure?\\n\\n'
    """
    if not getattr(tokenizer, "chat_template", None):
        return f"\n\n{request}\n\n"
    said = zip(("user", "assistant", "user"), ("?", PLACE, request), strict=True)
    messages = [{"role": role, "content": content} for role, content in said]
    whole = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    if PLACE not in whole:
        raise BadData("the chat template leaves earlier answers out, so no correction of them can be asked for")
    return whole.rpartition(PLACE)[2]


@part
def requested(players: Players, batch: Batch, *, request: str = REQUEST) -> Batch:
    """Turn answered rows into prompts that ask the student to correct the answer.

    x, y1 -> [x, y1, request]

    Args:
        players: whose tokenizer and chat template are used: the student's.
        batch: columns `tokens`, `mask`, which is true on the answer, and `length`.
        request: what the user says to the first answer.

    Returns:
        The batch with new `tokens`, `length` and `prompt`, nothing in `mask`, the text of the first answer in `first`,
        and other random streams than those that the answer was drawn from.

    Raises:
        BadValue: a student without a tokenizer.
        BadData: a chat template that does not show earlier answers.
    """
    student, first = players.student, answers(players.student, batch)
    tail = student.tokenizer(request_text(student.tokenizer, request), add_special_tokens=False)["input_ids"]
    rows = []
    for tokens, length in zip(batch.tokens.tolist(), batch.length.tolist(), strict=True):
        ended = tokens[length - 1] in student.eos  # the template writes its own end of a turn
        rows.append(torch.tensor([*tokens[: length - ended], *tail], device=batch.device))
    tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=student.pad)
    length_B = torch.tensor([len(row) for row in rows], device=batch.device)
    asked = batch.with_(tokens=tokens_BT, length=length_B, prompt=length_B, mask=tokens_BT < 0, first=first)
    return replace(asked, rng=batch.rng.fold("second turn"))


def marks(texts: Sequence[str], batch: Batch, verifier: Part) -> Tensor:
    """Mark one text for each row.

    Args:
        texts: what was said, B texts.
        batch: its columns of text are what the verifier is told of each row.
        verifier: a part `(completion, row)`.

    Returns:
        (B,) float64, on the CPU.
    """
    known = {k: c for k, c in batch.columns.items() if isinstance(c, list)}
    found = [verifier(text, {k: c[i] for k, c in known.items()}) for i, text in enumerate(texts)]
    return torch.tensor(found, dtype=torch.float64)


@part
def accepted(players: Players, batch: Batch, *, verifier: Part = contains_answer(), least: float = 1.0) -> Batch:
    """Keep the rows whose answer is good: rejection sampling.

    {y : r(y) >= least}

    Args:
        players: the student, whose tokenizer reads the answers.
        batch: columns `tokens` and `mask`, which is true on the answer.
        verifier: gives r, a mark in [0, 1].
        least: the least mark.

    Returns:
        The rows that are kept, perhaps none.
    """
    good_B = marks(answers(players.student, batch), batch, verifier) >= least
    return take(batch, good_B.nonzero()[:, 0].tolist())


@part
def improved(
    players: Players,
    batch: Batch,
    *,
    verifier: Part = contains_answer(),
    gain: float = 1.0,
    least: float = 0.0,
) -> Batch:
    """Keep the conversations whose second answer is better than the first, or as good.

    {(y1, y2) : r(y2) - r(y1) >= gain and r(y2) >= least}

    With marks 0 and 1: gain 1 keeps wrong answers that were corrected; gain 0 and least 1 keeps right ones that stayed
    right besides; gain -1 keeps everything.

    Args:
        players: the student, whose tokenizer reads the answers.
        batch: the first answer as text in `first`, the second in `tokens` under `mask`.
        verifier: gives r, a mark in [0, 1].
        gain: by how much the second mark must exceed the first.
        least: the least second mark.

    Returns:
        The rows that are kept, perhaps none.

    Source: Moskvoretskii et al., arXiv:2503.08681, section 3.
    """
    first_B, second_B = (marks(t, batch, verifier) for t in (batch["first"], answers(players.student, batch)))
    good_B = (second_B - first_B >= gain) & (second_B >= least)
    return take(batch, good_B.nonzero()[:, 0].tolist())
