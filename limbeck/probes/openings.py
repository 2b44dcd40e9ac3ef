"""Measures of how open a student is where a sentence begins, which is where it can choose what to say."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.errors import BadData
from limbeck.part import part
from limbeck.parts.sentences import END, sentences
from limbeck.players import Players

__all__ = ["opening_entropy"]


@part(higher=True)
def opening_entropy(players: Players, data: Mapping[str, Source], *, end: str = END, limit: int = 0) -> float:
    """The entropy of the student's next token at the first token of a sentence, in nats.

    (1/N) sum_{i, t opens a sentence of answer i} H(q(. | x_<t))

    Args:
        players: the player "student", with a tokenizer.
        data: the splits.
        end: a regular expression that the last token of a sentence matches.
        limit: rows that are read, the first of the test split; 0 for all.

    Returns:
        The mean over the openings.

    Raises:
        BadData: no target token.
        BadValue: a student without a tokenizer.

    Source: Cui et al., "The Entropy Mechanism of Reinforcement Learning", arXiv:2505.22617 (why it matters).
    """
    source = data["test"]
    batch = Batch(dict(source.take(torch.arange(min(limit or len(source), len(source))))))
    sentence_BT = sentences(players.student, batch, end=end)
    opens_BT = batch["mask"] & (sentence_BT != sentence_BT.roll(1, 1))
    if not opens_BT.any():
        raise BadData("the test split has no target token: its mask is false everywhere")
    with torch.no_grad():
        head = players.student(batch, "head").predicting(opens_BT)
        rows = [torch.special.entr(logits.softmax(-1)).sum(-1) for logits in head.chunks(512)]
    return float(torch.cat(rows).double().mean())
