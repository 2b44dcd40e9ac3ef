"""Answers sentence by sentence: how likely two players find each, and which answers are worth learning for it.

A sentence is one that the teacher would say and the student would not, or the other way round. Imitation makes every
sentence likelier, so answers are chosen that hold sentences of the first kind.

Shapes: B rows, T tokens, S sentences.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue
from limbeck.part import Expr, part
from limbeck.parts.listed import listed, lists
from limbeck.parts.policy import logp_of_tokens
from limbeck.parts.preference import same_prompt
from limbeck.parts.transcript import take
from limbeck.players import Player, Players

__all__ = ["chosen", "sentence_gap", "sentence_likelihoods", "sentences", "teacher_share"]

END = r"[.!?;]\s*$|\n"


def sentences(player: Player, batch: Batch, *, end: str = END) -> Tensor:
    """Number the sentences of every answer from 0; a token whose text matches `end` is the last of its sentence.

    Args:
        player: a player whose net has a tokenizer, which tells the text of a token.
        batch: columns `tokens` and `mask` (B, T).
        end: a regular expression.

    Returns:
        (B, T) int64; -1 where the mask is false.

    Raises:
        BadValue: a player without a tokenizer.
    """
    if getattr(player, "tokenizer", None) is None:
        raise BadValue(f"the player {player.name!r} has no tokenizer, so sentences cannot be told apart")
    mask_BT, tokens_BT = batch["mask"], batch["tokens"]
    said = tokens_BT[mask_BT].unique()
    last = [i for i in said.tolist() if re.search(end, player.tokenizer.decode([i]))]
    ends_BT = mask_BT & torch.isin(tokens_BT, torch.tensor(last, dtype=torch.long, device=tokens_BT.device))
    return (ends_BT.cumsum(1) - ends_BT.long()).where(mask_BT, -1)


@torch.no_grad()
def _told(player: Player, batch: Batch) -> Tensor:
    """The log-probabilities (N,) of the targets under a player, whether it has a head or lists what it said."""
    mask_BT = batch["mask"]
    token_N = batch["tokens"][mask_BT]
    if not lists(player):
        return logp_of_tokens(player, batch)[mask_BT]
    ids_NK, logp_NK = listed(player, batch, int(token_N.max()) + 1 if len(token_N) else 1)
    here_NK = (ids_NK == token_N[:, None]) & (logp_NK > -torch.inf)
    if not here_NK.any(-1).all():
        raise BadData(f"{player.name} does not list token {int(token_N[~here_NK.any(-1)][0])}, which was said")
    return logp_NK.masked_fill(~here_NK, -torch.inf).amax(-1)


def sentence_likelihoods(player: Player, batch: Batch, sentence_BT: Tensor) -> Tensor:
    """Compute the geometric mean of the probabilities of the tokens of each sentence.

    P(s) = exp((1/|s|) sum_{t in s} log p_t(y_t))

    Args:
        player: a language model, or one that lists the tokens of the batch.
        batch: columns `tokens` and `mask` (B, T).
        sentence_BT: as `sentences` gives them.

    Returns:
        (B, S), NaN where a row has no such sentence.

    Raises:
        BadData: a player that lists does not list a token of the batch.
    """
    mask_BT, most = batch["mask"], int(sentence_BT.max()) + 1
    logp_N = _told(player, batch)
    place_N = mask_BT.nonzero()[:, 0] * most + sentence_BT[mask_BT]
    size = logp_N.new_zeros(len(mask_BT) * most)
    total, count = (size.index_add(0, place_N, value) for value in (logp_N, torch.ones_like(logp_N)))
    return (total / count).exp().view(len(mask_BT), most)


def _both(players: Players, batch: Batch, end: str) -> tuple[Tensor, Tensor]:
    """P_T and P_S (B, S) of the sentences of a batch."""
    sentence_BT = sentences(players.student, batch, end=end)
    teacher, student = (sentence_likelihoods(players[n], batch, sentence_BT) for n in ("teacher", "student"))
    return teacher, student


@part
def sentence_gap(players: Players, batch: Batch, *, end: str = END) -> Tensor:
    """Score an answer by what its sentences have over to teach.

    mean_s max(0, P_T(s) - P_S(s)), P the geometric mean of the probabilities of the tokens of s

    Args:
        players: `student`, as it is now, with a tokenizer; `teacher`, who needs to tell the probabilities of the tokens
            of the batch only.
        batch: columns `tokens` and `mask`.
        end: a regular expression that the last token of a sentence matches.

    Returns:
        (B,), in [0, 1].

    Raises:
        BadValue: a student without a tokenizer.
        BadData: a teacher that lists does not list a token of the batch.

    Source: Yan et al., arXiv:2601.09088, section 3.3, which gives the principle and no score.
    """
    teacher_BS, student_BS = _both(players, batch, end)
    return (teacher_BS - student_BS).clamp(min=0).nanmean(1)


@part
def teacher_share(players: Players, batch: Batch, *, end: str = END, margin: float = 0.1) -> Tensor:
    """The share of an answer's sentences that the teacher would say and the student would not.

    mean_s [P_T(s) - P_S(s) > margin]

    Args:
        players: `student`, with a tokenizer, and `teacher`.
        batch: columns `tokens` and `mask`.
        end: a regular expression that the last token of a sentence matches.
        margin: by how much they must differ.

    Returns:
        (B,), in [0, 1].

    Raises:
        BadValue: a student without a tokenizer.
        BadData: a teacher that lists does not list a token of the batch.

    Source: Liu et al., "Where Did This Sentence Come From?", arXiv:2512.20908 (teacher sentences).
    """
    teacher_BS, student_BS = _both(players, batch, end)
    apart_BS = teacher_BS - student_BS
    return (apart_BS > margin).to(apart_BS.dtype).where(~apart_BS.isnan(), torch.nan).nanmean(1)


@part
def chosen(players: Players, batch: Batch, *, score: Expr = sentence_gap()) -> Batch:
    """Keep one answer to every prompt: that of the highest score, the first of equals.

    argmax_i score(y_i)

    Args:
        players: those that the score asks.
        batch: columns `tokens`, `mask` and `prompt`; several rows to a prompt.
        score: a part `(players, batch)` that gives (B,).

    Returns:
        A row for each prompt.
    """
    if not batch.size:
        return batch
    score_B = score(players, batch).tolist()
    return take(batch, [max(group, key=score_B.__getitem__) for group in same_prompt(batch)])
