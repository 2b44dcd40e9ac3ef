"""Branches: what would have become of an answer, had another token stood at one of its places.

A node is a row with one target: the token there. From the nodes of answered and marked rows the student goes on, behind
each of some tokens, and how often it succeeds is what that token is worth:

    rollout() >> graded() >> nodes() >> branched()

Shapes: B rows, T tokens, N nodes, V vocabulary, K candidates of a node.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Part, part
from limbeck.parts.rollout import rollout
from limbeck.parts.sparse import likeliest
from limbeck.parts.token import shared_heads
from limbeck.parts.transcript import answers, contains_answer, marks, repeated, take
from limbeck.players import Player, Players
from limbeck.rng import Rng

__all__ = ["SCORES", "branched", "forced", "local_scores", "nodes", "whole_answers"]

SCORES = ("entropy of the teacher", "entropy of the student", "KL(teacher || student)", "margin of the teacher")


@part
def nodes(players: Players, batch: Batch, *, per_row: int = 10) -> Batch:
    """Make rows of single places of the answers, drawn at random.

    s = (x, y_<t)

    Args:
        players: not asked.
        batch: columns `tokens` and `mask`.
        per_row: places of an answer; of shorter ones, all.

    Returns:
        Rows with all columns of their answers, `mask` true at one token, `position` (N,), the share of the answer at
        which it stands, and `row` (N,), the row of the data; each has random streams of its own.

    Raises:
        BadValue: fewer than one place.
    """
    if per_row < 1:
        raise BadValue(f"nodes needs per_row >= 1, got {per_row}")
    mask_BT = batch["mask"]
    u_BT = batch.rng.fold("nodes").uniform("place", mask_BT.shape[1]).masked_fill(~mask_BT, 2.0)
    chosen_BT = mask_BT & (u_BT.argsort(1).argsort(1) < per_row)
    b_N, t_N = chosen_BT.nonzero().T
    made = take(batch, b_N.tolist())
    count_BT = mask_BT.cumsum(1)
    made = made.with_(
        mask=torch.arange(mask_BT.shape[1], device=batch.device) == t_N[:, None],
        position=(count_BT[b_N, t_N] - 0.5) / count_BT[b_N, -1],
        row=batch.get("index", torch.arange(batch.size, device=batch.device))[b_N],
    )
    turn_N = chosen_BT.cumsum(1)[b_N, t_N] - 1
    return replace(made, rng=Rng(made.rng.key, made.rng.rows * per_row + turn_N))


def forced(batch: Batch, n: Tensor, ids: Tensor) -> Batch:
    """Cut answers before their nodes, and put other tokens there.

    Args:
        batch: N nodes.
        n: (M,) which node each row is made of.
        ids: (M,) the tokens.

    Returns:
        M rows whose `prompt` ends with the token; `begun` (M,) is where the answer begins.

    Example:
        >>> mask, one = torch.tensor([[False, False, True, False]]), torch.tensor([1])
        >>> node = Batch({"tokens": torch.tensor([[5, 6, 7, 8]]), "mask": mask, "prompt": one})
        >>> forced(node, torch.tensor([0, 0]), torch.tensor([3, 4])).tokens.tolist()
        [[5, 6, 3], [5, 6, 4]]
    """
    made, t_M = take(batch, n.tolist()), batch["mask"].int().argmax(1)[n]
    tokens_MT = made.tokens.scatter(1, t_M[:, None], ids[:, None])
    at_T = torch.arange(tokens_MT.shape[1], device=batch.device)
    tokens_MT = tokens_MT.where(at_T <= t_M[:, None], 0)[:, : int(t_M.max()) + 1]
    return made.with_(tokens=tokens_MT, mask=tokens_MT < 0, length=t_M + 1, prompt=t_M + 1, begun=made["prompt"])


def whole_answers(player: Player, batch: Batch, most: int) -> list[str]:
    """The texts from where answers begin to their first end, the forced token included.

    Args:
        player: whose tokenizer reads them.
        batch: columns `tokens`, `length` and `begun`.
        most: tokens that an answer may have.

    Raises:
        BadValue: a player without a tokenizer.
    """
    tokens_MT, begun_M = batch["tokens"], batch["begun"]
    at_T = torch.arange(tokens_MT.shape[1], device=batch.device)
    inside_MT = (at_T >= begun_M[:, None]) & (at_T < batch["length"][:, None]) & (at_T < begun_M[:, None] + most)
    ends_MT = torch.isin(tokens_MT, tokens_MT.new_tensor(player.eos)) & inside_MT
    return answers(player, batch.with_(mask=inside_MT & (ends_MT.cumsum(1) - ends_MT.long() == 0)))


def _candidates(players: Players, batch: Batch, targets: Part, share: float) -> dict[str, Tensor]:
    """The candidates of nodes, and their log-probabilities under both players."""
    if not 0 <= share <= 1:
        raise BadValue(f"the teacher's share of the candidates must be in [0, 1], got {share:g}")
    heads = shared_heads(players.student, players.teacher, batch)
    own_NV, theirs_NV = (head.logits().log_softmax(-1) for head in heads)
    parts = [(1 - share, own_NV), (share, theirs_NV)]
    both_NV = torch.stack([logp + math.log(s) for s, logp in parts if s]).logsumexp(0)
    found = targets(both_NV, lambda n: batch.rng.fold("candidates").uniform("token", n))
    return {
        "ids": found.ids, "chance": found.logp.exp(),
        "own": own_NV.gather(-1, found.ids), "theirs": theirs_NV.gather(-1, found.ids),
    }  # fmt: skip


@part
def branched(
    players: Players,
    batch: Batch,
    *,
    targets: Part = likeliest(k=4),
    share: float = 0.5,
    copies: int = 8,
    verifier: Part = contains_answer(),
    max_new_tokens: int = 128,
) -> Batch:
    """Find what tokens are worth at nodes: put each there, let the student go on, and count how often it succeeds.

    Q(s, v) = P(r(y) = 1 | y begins with y_<t v, and the student goes on)

    Args:
        players: `student`, which goes on under its own prompt, and `teacher`.
        batch: nodes, and whatever the verifier reads.
        targets: chooses the candidates of a node.
        share: of the teacher in the distribution that they are chosen from; the rest is the student.
        copies: answers behind each candidate, an even number.
        verifier: gives r, a mark in [0, 1].
        max_new_tokens: where the whole answer is cut.

    Returns:
        The nodes with `ids` (N, K) and of these `chance`, the weight that the choice gives them, 0 for padding; `own`
        and `theirs`, the log-probabilities of student and teacher; and `value` (N, K, 2), the mean marks of one half
        of the answers and of the other.

    Raises:
        BadValue: an odd number of copies, a share outside [0, 1], or a student without a tokenizer.
        BadData: a prompt that leaves no room in the student's context for two answers.

    Source: the targeted rollouts of "Unmasking On-Policy Distillation: Where It Helps, Where It Hurts, and Why".
    """
    if copies < 2 or copies % 2:
        raise BadValue(f"branched compares two halves of the copies, so it needs an even number, got {copies}")
    found = _candidates(players, batch, targets, share)
    n_M, k_M = (found["chance"] > 0).nonzero().T
    rows = forced(batch, n_M, found["ids"][n_M, k_M])
    rows = replace(rows, rng=Rng(batch.rng.key, batch.rng.rows[n_M] * found["ids"].shape[1] + k_M))
    said = (repeated(copies=copies) >> rollout(max_new_tokens=max_new_tokens))(players, rows)
    marks_M2 = marks(whole_answers(players.student, said, max_new_tokens), said, verifier).view(-1, 2, copies // 2)
    value_NK2 = torch.zeros(*found["ids"].shape, 2, device=batch.device)
    value_NK2[n_M, k_M] = marks_M2.mean(-1).float().to(batch.device)
    return batch.with_(**found, value=value_NK2)


@part
def local_scores(players: Players, batch: Batch) -> Batch:
    """Keep what can be told of nodes without going on from them.

    H(p), H(q), KL(p || q), p_(1) - p_(2), with p the teacher and q the student

    Args:
        players: `student` and `teacher`.
        batch: nodes.

    Returns:
        The nodes with `scores` (N, 4), in the order of `SCORES`.
    """
    log_q, log_p = (h.logits().log_softmax(-1) for h in shared_heads(players.student, players.teacher, batch))
    p, q = log_p.exp(), log_q.exp()
    first_N2 = p.topk(2, -1).values
    scores = (-(p * log_p).sum(-1), -(q * log_q).sum(-1), (p * (log_p - log_q)).sum(-1), first_N2[:, 0] - first_N2[:, 1])
    return batch.with_(scores=torch.stack(scores, 1))
