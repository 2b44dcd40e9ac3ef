"""What beginnings of answers are worth, exactly: every way to go on is followed, as far as it is likely at all.

Shapes: M beginnings, F beginnings that are being followed, T tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import Part
from limbeck.parts.branch import whole_answers
from limbeck.parts.transcript import marks, take
from limbeck.players import Player

__all__ = ["exact_values"]


@torch.no_grad()
def exact_values(
    player: Player, batch: Batch, verifier: Part, *, least: float = 1e-3, max_new_tokens: int = 64
) -> Tensor:
    """The probability of success behind beginnings of answers, by a walk through all that may follow.

    Q = sum over ends y of P(y | beginning) r(y), those with P < least on the way left out

    Args:
        player: who goes on.
        batch: M rows with `tokens`, `length` and `begun`, where the answer begins (see `limbeck.parts.branch.forced`),
            and whatever the verifier reads.
        verifier: gives r, a mark in [0, 1].
        least: ways that are less likely end there, and count as failures.
        max_new_tokens: tokens that an answer may have.

    Returns:
        (M,) float32.
    """
    value_M = torch.zeros(batch.size)
    origin_F, logp_F = torch.arange(batch.size), torch.zeros(batch.size, dtype=torch.float64)
    while batch.size:
        last_F = batch.tokens.gather(1, batch["length"][:, None] - 1)[:, 0]
        ended_F = torch.isin(last_F, last_F.new_tensor(player.eos)) | (batch["length"] - batch.begun >= max_new_tokens)
        if ended_F.any():
            ends = take(batch, ended_F.nonzero()[:, 0].tolist())
            mark = marks(whole_answers(player, ends, max_new_tokens), ends, verifier)
            value_M.index_add_(0, origin_F[ended_F], (logp_F[ended_F].exp() * mark).float())
        going = (~ended_F).nonzero()[:, 0]
        batch, origin_F, logp_F = take(batch, going.tolist()), origin_F[going], logp_F[going]
        if batch.size:
            batch, at, logp_F = _grown(player, batch, logp_F, least)
            origin_F = origin_F[at]
    return value_M


def _grown(player: Player, batch: Batch, logp_F: Tensor, least: float) -> tuple[Batch, Tensor, Tensor]:
    """Every beginning with every likely token behind it; whence each came, and its log-probability."""
    last = torch.zeros_like(batch.tokens, dtype=torch.bool).scatter(1, batch["length"][:, None] - 1, True)
    head = player(batch.with_(), "head")
    logp_FV = logp_F[:, None] + head.at(last).logits().double().log_softmax(-1)
    at, token = (logp_FV.exp() >= least).nonzero().T
    grown = take(batch, at.tolist())
    tokens = torch.nn.functional.pad(grown.tokens, (0, 1)).scatter(1, grown["length"][:, None], token[:, None])
    return grown.with_(tokens=tokens, length=grown["length"] + 1, mask=tokens < 0), at, logp_FV[at, token]
