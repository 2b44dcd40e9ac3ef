"""Sample routing: which answers are learned from by their rewards, and which from a player that was shown a right one.

Among several answers to a prompt, a wrong one gains more from a player that has read a right answer of the same group
than from its reward, which says of no token what was wrong with it:

    graded() >> group_relative(copies=8) >> siblings(copies=8) >> failures() >> recorded() >> certain()
    "teacher": self_under("average", told(column="sibling"))

Shapes: B rows, T tokens, N target tokens, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.kernels.fused import rows_of_chunk
from limbeck.kernels.head import TokenHead
from limbeck.part import part
from limbeck.parts.transcript import answers
from limbeck.players import Players

__all__ = ["all_told", "apart", "certain", "failures", "importance", "per_token", "siblings", "weighed"]

THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


@part
def siblings(players: Players, batch: Batch, *, copies: int = 8, least: float = 0.5, column: str = "sibling") -> Batch:
    """Give every answer a right one of its group to look at: the first, but never itself.

    c_i = y_j, j = min{j != i in the group of i : r_j >= least}

    Args:
        players: the student, whose tokenizer reads the answers.
        batch: columns `tokens`, `mask` and `reward`; its groups are the copies that `repeated` made of a row, or rows
            of equal `group` (B,), where the batch has that column.
        copies: of each row, as `repeated` made them.
        least: the least reward of a right answer.
        column: where the text is put; it is empty where no other answer is right. Thoughts between think tags are left
            out.

    Raises:
        BadValue: fewer than one copy, or a student without a tokenizer.

    Source: Hübotter et al., "Reinforcement Learning via Self-Distillation", arXiv:2601.20802, section 3.
    """
    if copies < 1:
        raise BadValue(f"a group needs copies >= 1, got {copies}")
    said = [THOUGHT.sub("", text) for text in answers(players.student, batch)]
    group_B = batch["group"] if "group" in batch else batch.rng.rows // copies
    fit_BB = (group_B[:, None] == group_B) & (batch["reward"] >= least)
    fit_BB.fill_diagonal_(False)
    first_B = zip(fit_BB.int().argmax(1).tolist(), fit_BB.any(1).tolist(), strict=True)
    texts = [said[at] if any_ else "" for at, any_ in first_B]
    return batch.with_(**{column: texts})


def _told(batch: Batch, column: str) -> Tensor:
    return torch.tensor([bool(text) for text in batch[column]], device=batch.device)


@part
def failures(players: Players, batch: Batch, *, least: float = 0.5, column: str = "sibling") -> Batch:
    """Route wrong answers to the player that is told something, where there is something to tell; leave the others.

    z_i = 1[r_i < least] 1[c_i is not empty]

    Args:
        players: not asked.
        batch: columns `reward` (B,) and `column`, a text for each row.
        least: the least reward of a right answer.
        column: what is told.

    Returns:
        The batch with `routed` (B,) bool.
    """
    return batch.with_(routed=(batch["reward"] < least) & _told(batch, column))


@part
def all_told(players: Players, batch: Batch, *, column: str = "sibling") -> Batch:
    """Route all answers to the player that is told something, wherever there is something to tell.

    z_i = 1[c_i is not empty]

    Args:
        players: not asked.
        batch: column `column`, a text for each row.
        column: what is told.

    Returns:
        The batch with `routed` (B,) bool.

    Source: Hübotter et al., "Reinforcement Learning via Self-Distillation", arXiv:2601.20802, section 3.
    """
    return batch.with_(routed=_told(batch, column))


def per_token(head: TokenHead, measure: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """Measure every token's logits, made a few tokens at a time, without gradient.

    Args:
        head: (N, D) rows.
        measure: of logits (n, V), and the rows of `given` that belong to them, to (n,).
        given: tensors with first axis N.

    Returns:
        (N,), float32 or better.

    Example:
        >>> per_token(TokenHead(torch.ones(3, 2), torch.ones(4, 2)), lambda z: z.softmax(-1)[:, 0])
        tensor([0.2500, 0.2500, 0.2500])
    """
    head, rows = head.detach(), rows_of_chunk(head)
    pieces = zip(head.chunks(rows), *(g.split(rows) for g in given), strict=True) if len(head.hidden) else ()
    wide = torch.promote_types(head.hidden.dtype, torch.float32)
    return torch.cat([head.hidden.new_empty(0, dtype=wide), *(measure(*piece) for piece in pieces)])


def _entropy(logits: Tensor) -> Tensor:
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).nan_to_num(0.0).sum(-1)


@part
def certain(players: Players, batch: Batch, *, sharpness: float = 1.0) -> Batch:
    """Weigh the tokens of routed answers by how sure the teacher is of what comes there.

    w_t = exp(-sharpness H(p_t)) / (the mean of these over all routed targets of the global batch); 0 elsewhere

    Args:
        players: `teacher`.
        batch: columns `tokens`, `mask` (B, T) and `routed` (B,); of several processes, each its own rows.
        sharpness: 0 gives every routed token the weight 1.

    Returns:
        The batch with `certainty` (B, T), float32 or better, and with what the teacher answered, for the loss to use.
    """
    mask_BT = batch["mask"] & batch["routed"][:, None]
    head = players.teacher(batch, "head")
    raw_N = (-sharpness * per_token(head.predicting(mask_BT), _entropy)).exp()
    both = torch.stack((raw_N.sum(), raw_N.new_tensor(len(raw_N)))).double()
    if dist.is_initialized():
        dist.all_reduce(both)
    mean = (both[0] / both[1].clamp(min=1)).to(raw_N.dtype)
    certainty_BT = raw_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, raw_N / mean)
    known = {players.teacher.name: batch.memo[players.teacher.name]}
    return replace(batch.with_(certainty=certainty_BT), memo=known)


@part
def weighed(players: Players, batch: Batch, *, column: str = "routed") -> Tensor:
    """Weigh by a column of the batch.

    w = the column

    Args:
        players: not asked.
        batch: the column, (B,) or (B, T).
        column: its name.
    """
    weight: Tensor = batch[column].float() if batch[column].dtype == torch.bool else batch[column]
    return weight


@part
def apart(players: Players, batch: Batch, *, column: str = "routed") -> Tensor:
    """Weigh what a column of the batch leaves.

    w = 1 - the column

    Args:
        players: not asked.
        batch: the column, (B,) or (B, T), bool or numbers in [0, 1].
        column: its name.
    """
    weight: Tensor = 1 - (batch[column].float() if batch[column].dtype == torch.bool else batch[column])
    return weight


@part
def importance(players: Players, batch: Batch, *, cap: float = 2.0) -> Tensor:
    """Weigh tokens by how much likelier the student finds them than when they were said, up to a bound.

    w_t = min(q_t(y_t) / q_old_t(y_t), cap), no gradient

    Args:
        players: `student`.
        batch: columns `tokens`, `mask` and `logp_old` (B, T), as `recorded` keeps them.
        cap: the largest weight.

    Returns:
        (B, T); 0 where the mask is false.

    Source: Hübotter et al., "Reinforcement Learning via Self-Distillation", arXiv:2601.20802, its code.
    """
    mask_BT = batch["mask"]
    # asked with its gradient: the loss shares this answer
    head = players.student(batch, "head").predicting(mask_BT)
    given = batch["tokens"][mask_BT], batch["logp_old"][mask_BT]
    weight_N = per_token(head, lambda z, y, old: (z.log_softmax(-1).gather(-1, y[:, None])[:, 0] - old).exp(), *given)
    return weight_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, weight_N.clamp(max=cap))
