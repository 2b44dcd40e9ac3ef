"""Measures of self-correction: what becomes of first answers when their author is asked to correct them.

Of the four moves (right or wrong, before and after), three numbers say all: the accuracy of the first answer (see
`limbeck.probes.language.answer_accuracy`), that of the second, and the share that was right and is broken.

Shapes: N test rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import Expr, Part, part
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import answers, contains_answer, marks, requested
from limbeck.players import Players
from limbeck.rng import Rng

__all__ = ["broken", "correction_gain", "second_accuracy", "two_turns"]

ROWS = 256


def two_turns(request: str = "", *, temperature: float = 1.0, top_p: float = 1.0, max_new_tokens: int = 64) -> Expr:
    """Compose the two turns: an answer, a request, a second answer, both sampled alike.

    Args:
        request: what the user says to the first answer; by default what `requested` says.
        temperature: of the softmax; 0 is greedy.
        top_p: the mass of the nucleus.
        max_new_tokens: where an answer is cut.

    Example:
        >>> list(two_turns("Sure?", temperature=0.0).children())
        ['rollout', 'requested', 'rollout_2']
    """
    said = rollout(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    return said >> (requested(request=request) if request else requested()) >> said


TURNS = two_turns()


def _marks(
    players: Players, data: Mapping[str, Source], turns: Expr, verifier: Part, limit: int
) -> tuple[Tensor, Tensor]:
    """The marks of the first and the second answers to the test prompts, (N,) each."""
    source, found = data["test"], []
    n = min(limit or len(source), len(source))
    for start in range(0, n, ROWS):
        rows = torch.arange(start, min(n, start + ROWS))
        batch = turns(players, Batch(dict(source.take(rows)), rng=Rng(("two turns",), rows)))
        found.append([marks(t, batch, verifier) for t in (batch["first"], answers(players.student, batch))])
    first, second = zip(*found, strict=True)
    return torch.cat(first), torch.cat(second)


@part(higher=True)
def second_accuracy(
    players: Players,
    data: Mapping[str, Source],
    *,
    turns: Expr = TURNS,
    verifier: Part = contains_answer(),
    limit: int = 256,
) -> float:
    """The share of right answers after the student was asked to correct its own.

    (1/N) sum_i r(y2_i), y1_i ~ student(. | x_i), y2_i ~ student(. | x_i, y1_i, request)

    Args:
        players: the player "student".
        data: the splits.
        turns: the batch parts that make both answers.
        verifier: gives r, a mark in [0, 1].
        limit: prompts that are asked, the first of the split; 0 for all.

    Raises:
        BadData: the rows have no column that the verifier reads, such as `answer`.
        BadValue: the student has no tokenizer.

    Source: Kumar et al., arXiv:2409.12917, Accuracy@t2.
    """
    return float(_marks(players, data, turns, verifier, limit)[1].mean())


@part(higher=True)
def correction_gain(
    players: Players,
    data: Mapping[str, Source],
    *,
    turns: Expr = TURNS,
    verifier: Part = contains_answer(),
    limit: int = 256,
) -> float:
    """By how much the second answers are better than the first.

    (1/N) sum_i r(y2_i) - r(y1_i)

    Args:
        players: the player "student".
        data: the splits.
        turns: the batch parts that make both answers.
        verifier: gives r, a mark in [0, 1].
        limit: prompts that are asked, the first of the split; 0 for all.

    Raises:
        BadData: the rows have no column that the verifier reads, such as `answer`.
        BadValue: the student has no tokenizer.

    Source: Kumar et al., arXiv:2409.12917, Delta(t1, t2).
    """
    first, second = _marks(players, data, turns, verifier, limit)
    return float((second - first).mean())


@part
def broken(
    players: Players,
    data: Mapping[str, Source],
    *,
    turns: Expr = TURNS,
    verifier: Part = contains_answer(),
    limit: int = 256,
) -> float:
    """The share of answers that were right and are wrong after correction.

    (1/N) sum_i r(y1_i) (1 - r(y2_i))

    Args:
        players: the player "student".
        data: the splits.
        turns: the batch parts that make both answers.
        verifier: gives r, a mark in [0, 1].
        limit: prompts that are asked, the first of the split; 0 for all.

    Raises:
        BadData: the rows have no column that the verifier reads, such as `answer`.
        BadValue: the student has no tokenizer.

    Source: Kumar et al., arXiv:2409.12917, Delta from correct to incorrect.
    """
    first, second = _marks(players, data, turns, verifier, limit)
    return float((first * (1 - second)).mean())
