"""How far apart two models of different tokenizers are on the same text: piece by piece, and a character of it.

Rows of the test split are language data in the student's tokens, with the columns tokens (B, T), mask (B, T) and
length (B,).

Shapes: B rows, C chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from limbeck.adapters.pieces import pieces_of
from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.errors import BadData
from limbeck.part import part
from limbeck.parts.chunks import in_teacher_tokens, likelihoods, teacher_rows
from limbeck.players import Players

__all__ = ["bits_gap", "chunk_gap"]

ROWS = 128


def _aligned(players: Players, data: Mapping[str, Source], limit: int) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """The test rows in both tokenizers, with the log-probabilities (B, C) of their chunks under teacher and student."""
    source = data["test"]
    for rows in torch.arange(min(limit or len(source), len(source))).split(ROWS):
        batch = in_teacher_tokens.fn(players, Batch(dict(source.take(rows))))
        there, sums = teacher_rows(batch), []
        for player, view in ((players["teacher"], there), (players["student"], batch)):
            logp_BT = likelihoods(player, view)
            zero = logp_BT.new_zeros(len(logp_BT), int(batch.chunk.max()) + 1)
            sums.append(zero.scatter_add(1, view.chunk, logp_BT)[:, 1:])
        yield batch, sums[0], sums[1]


@part
def chunk_gap(players: Players, data: Mapping[str, Source], *, limit: int = 0) -> float:
    """The mean distance between the log-likelihoods that teacher and student give a chunk, in nats.

    mean_c |log p(c) - log q(c)|

    Args:
        players: `teacher` and `student`, of any tokenizers.
        data: the splits.
        limit: rows that are read, the first of the split; 0 for all.

    Raises:
        BadData: no chunk.

    Source: Minixhofer et al., arXiv:2503.20083.
    """
    total, count = 0.0, 0
    for batch, p_BC, q_BC in _aligned(players, data, limit):
        total += float((p_BC - q_BC).abs().sum())
        count += int(batch.chunk.amax(1).sum())
    if count == 0:
        raise BadData("the test split has no chunk of text that both tokenizers end")
    return total / count


@part
def bits_gap(players: Players, data: Mapping[str, Source], *, limit: int = 0) -> float:
    """By how much teacher and student differ in the bits that they need for a character of text.

    |sum_c log2 p(c) - sum_c log2 q(c)| / characters

    Args:
        players: `teacher` and `student`, of any tokenizers.
        data: the splits.
        limit: rows that are read, the first of the split; 0 for all.

    Raises:
        BadData: no text in any chunk.
    """
    nats, characters = 0.0, 0
    written = pieces_of(players["student"]).written
    for batch, p_BC, q_BC in _aligned(players, data, limit):
        nats += float((p_BC - q_BC).sum())
        spelled = b"".join(written[i] for i in batch.tokens[batch.chunk > 0].tolist())
        characters += len(spelled.decode(errors="ignore"))
    if characters == 0:
        raise BadData("the test split has no text that both tokenizers end")
    return abs(nats) / characters / float(torch.log(torch.tensor(2.0)))
