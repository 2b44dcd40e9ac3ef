"""Critical spans: which few tokens of an answer are distilled, and what the teacher is told of them.

An annotator is a part `(completion, row)` that reads an answer, with the texts of its row and its `reward`, and returns
spans of characters and a label: a coarse word for what is there, never where. The label is all that the teacher sees:

    graded() >> annotated(annotator=mine()) >> ...
    "teacher": self_under("past", told(column="label"))

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch, Moment
from limbeck.errors import BadValue
from limbeck.part import Expr, Part, part
from limbeck.parts.token import forward_kl
from limbeck.parts.transcript import answers
from limbeck.players import Players

__all__ = ["Annotation", "annealed", "annotated", "elsewhere", "held", "last_line", "tokens_of"]

Annotation = tuple[Sequence[tuple[int, int]], str]


@part
def last_line(completion: str, row: Mapping[str, Any]) -> Annotation:
    """Mark the last line of an answer, in which it says what it comes to.

    Example:
        >>> last_line.fn("first\\nso 7", {})
        ([(6, 10)], 'the conclusion')
    """
    text = completion.rstrip()
    return [(text.rfind("\n") + 1, len(text))], "the conclusion"


def tokens_of(tokenizer: Any, tokens: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[int]:
    """Find the tokens that write some characters of their text.

    Args:
        tokenizer: of the player.
        tokens: of one answer.
        spans: (first, behind the last) characters; those behind the end are in no token.

    Returns:
        Places of tokens, rising.
    """
    if not spans:
        return []
    # a character is written by the token that completes it
    said = (tokenizer.decode(tokens[: k + 1], skip_special_tokens=True) for k in range(len(tokens)))
    ends = [len(text.rstrip("\ufffd")) for text in said]
    places = zip([0, *ends], ends, strict=False)
    return [k for k, (a, b) in enumerate(places) if any(max(a, first) < min(b, last) for first, last in spans)]


@part
def annotated(
    players: Players, batch: Batch, *, annotator: Part = last_line(), most: float = 0.25, least: float = 1.0
) -> Batch:
    """Mark the spans that matter: key ones in right answers, wrong ones in wrong answers; and name them to the teacher.

    K_y if r(y) >= least else E_y, at most so large a share of |y|, the first tokens first

    Args:
        players: the student, whose tokenizer reads the answers.
        batch: columns `tokens`, `mask` (B, T), `reward` (B,), and what the annotator reads of each row.
        annotator: a part `(completion, row)` that returns spans of characters and a label.
        most: the largest share of an answer's tokens that is marked.
        least: the least reward of a right answer.

    Returns:
        The batch with `key`, `error` and `span`, either of them, (B, T) bool, and the texts `label`.

    Raises:
        BadValue: a share outside (0, 1], or a student without a tokenizer.

    Source: "TRACE", arXiv:2605.10194.
    """
    if not 0 < most <= 1:
        raise BadValue(f"annotated needs a share in (0, 1], got {most:g}")
    known = {k: c for k, c in batch.columns.items() if isinstance(c, list)}
    span_BT, labels = torch.zeros_like(batch["mask"]), []
    for b, text in enumerate(answers(players.student, batch)):
        spans, label = annotator(text, {**{k: c[b] for k, c in known.items()}, "reward": float(batch["reward"][b])})
        place = batch["mask"][b].nonzero()[:, 0]
        found = tokens_of(players.student.tokenizer, batch["tokens"][b][place].tolist(), spans)
        span_BT[b, place[found[: int(most * len(place))]]] = True
        labels.append(label)
    right_BT = (batch["reward"] >= least)[:, None]
    return batch.with_(span=span_BT, key=span_BT & right_BT, error=span_BT & ~right_BT, label=labels)


@part
def held(at: Moment, *, value: float = 0.5, hold: int = 10, fall: int = 30) -> float:
    """A value that stays for some steps, falls to 0 in a straight line, and stays there.

    value min(1, max(0, 1 - (k - hold) / fall)), k = 1, 2, ...

    Args:
        at: the place in the stage.
        value: at first.
        hold: steps at that value.
        fall: steps from the last of them to the first at 0.

    Example:
        >>> [held()(Moment(step=k - 1)) for k in (1, 10, 25, 40, 99)]
        [0.5, 0.5, 0.25, 0.0, 0.0]
    """
    return value * min(1.0, max(0.0, 1 - (at.step + 1 - hold) / fall))


@part
def elsewhere(players: Players, batch: Batch, *, share: float = 1.0, column: str = "span") -> Tensor:
    """Weigh tokens that are not marked by 1, and those that are by what is left of it.

    w_t = 1 - share 1[t is marked]

    Args:
        players: not asked.
        batch: a column (B, T) bool.
        share: what the marked ones lose.
        column: its name.
    """
    marked_BT: Tensor = batch[column]
    return 1 - share * marked_BT.float()


@part
def annealed(
    players: Players, batch: Batch, weight: Tensor, *, strength: float = 1.0, loss: Expr = forward_kl()
) -> Tensor:
    """A multiple of a loss, which asks nobody anything while it is 0: a teacher that is done costs nothing.

    sum_t w_t strength loss_t

    Args:
        players: whomever the loss asks.
        batch: what it reads.
        weight: (B, T).
        strength: a number, or a schedule.
        loss: the loss.

    Raises:
        BrokenRecipe: the loss of a part is neither (), (B,) nor (B, T).
    """
    if strength == 0:
        return torch.zeros((), device=batch.device)
    totals = loss.total(players, batch, weight)
    return strength * torch.stack(list(totals.values())).sum() * batch.counts["tokens"]
