"""A player that is told more and learns from it: answers given under a context, and losses evaluated there.

A player in the role `self_under` is the same net without gradient. Here the net itself reads the context: `said_under`
lets it answer there and puts the answer behind the plain prompt; `under` evaluates a loss there, and gradients flow.

Shapes: B rows, T tokens, T' tokens with what is told.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import Expr, Part, part
from limbeck.parts.context import told
from limbeck.parts.policy import logp_of_tokens
from limbeck.parts.rollout import rollout
from limbeck.parts.token import cross_entropy
from limbeck.players import Players

__all__ = ["answers_under", "noted", "noted_under", "said_under", "under"]


def answers_under(batch: Batch, seen: Batch, pad: int) -> Batch:
    """Put the answers of rows that were told something behind the same rows' plain prompts.

    Args:
        batch: the plain rows: columns `tokens`, `mask`, `length`, `prompt`.
        seen: the same rows in a context, with their answers under `mask`.
        pad: the id that fills padding.

    Returns:
        The plain rows with those answers.

    Example:
        >>> rows = {"length": torch.tensor([2]), "prompt": torch.tensor([1])}
        >>> plain = Batch({"tokens": torch.tensor([[5, 6]]), "mask": torch.tensor([[False, True]]), **rows})
        >>> seen = plain.with_(tokens=torch.tensor([[5, 9, 7, 8]]), mask=torch.tensor([[False, False, True, True]]))
        >>> answers_under(plain, seen, 0).tokens.tolist()
        [[5, 7, 8]]
    """
    at = zip(batch["tokens"], batch["prompt"].tolist(), seen["tokens"], seen["mask"], strict=True)
    rows = [torch.cat((tokens[:prompt], told[mask])) for tokens, prompt, told, mask in at]
    tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    length_B = torch.tensor([len(row) for row in rows], device=batch.device)
    at_T = torch.arange(tokens_BT.shape[1], device=batch.device)
    mask_BT = (at_T >= batch["prompt"][:, None]) & (at_T < length_B[:, None])
    return batch.with_(tokens=tokens_BT, mask=mask_BT, length=length_B)


@part
def said_under(players: Players, batch: Batch, *, context: Expr = told(), on_policy: Part = rollout()) -> Batch:
    """Replace every answer by one that the student gives when it is told something.

    y ~ q(. | x, c), put behind x

    Args:
        players: the student.
        batch: columns `tokens`, `mask`, `length`, `prompt`, and what the context reads.
        context: a batch part that tells the student something.
        on_policy: a batch part that lets it answer.

    Returns:
        The batch with new `tokens`, `length` and `mask`; the prompts are the plain ones.
    """
    seen = context(players, batch)
    again = replace(seen, rng=batch.rng.fold("under"))  # not the draws of an answer given before
    return answers_under(batch, on_policy(players, again), players.student.pad)


def _moved(column: Tensor, old_BT: Tensor, new_BT: Tensor) -> Tensor:
    """What a column has at the targets of one batch, at those of another that has as many in the same order."""
    return column.new_zeros(new_BT.shape).masked_scatter(new_BT, column[old_BT])


def _seen(players: Players, batch: Batch, context: Expr) -> Batch:
    """A batch in a context, its columns of token by token beside the targets again."""
    with torch.no_grad():
        seen: Batch = context(players, batch)
    mask_BT = batch["mask"]
    written = {"tokens", "mask", "place"}
    ours = {k: c for k, c in batch.columns.items() if isinstance(c, Tensor) and c.shape == mask_BT.shape}
    moved = {k: _moved(c, mask_BT, seen["mask"]) for k, c in ours.items() if k not in written and seen.get(k) is c}
    return replace(seen.with_(**moved), counts=batch.counts)


@part
def under(
    players: Players, batch: Batch, weight: Tensor, *, context: Expr = told(), loss: Expr = cross_entropy()
) -> Tensor:
    """Evaluate a loss where the student is told something; its gradients flow.

    sum_t w_t loss_t(q(. | x, c, y_<t))

    Args:
        players: the student, who is asked in the context, and whomever the loss asks.
        batch: columns `tokens`, `mask` (B, T), `length`, `prompt` and what the context reads; columns (B, T) of the
            targets go with them into the context.
        weight: (B, T).
        context: a batch part that tells the student something and keeps the targets.
        loss: the loss; all its parts share one forward.

    Raises:
        BrokenRecipe: the loss of a part is neither (), (B,) nor (B, T).

    Source: Penaloza et al., "Privileged Information Distillation for Language Models", arXiv:2602.04942 (the teacher
    that learns).
    """
    seen = _seen(players, batch, context)
    totals = loss.total(players, seen, _moved(weight, batch["mask"], seen["mask"]))
    return torch.stack(list(totals.values())).sum() * batch.counts["tokens"]


@part
def noted(players: Players, batch: Batch, *, column: str = "logp_plain") -> Batch:
    """Keep how likely the student finds the tokens now, told nothing.

    log q(y_t | x, y_<t)

    Args:
        players: `student`.
        batch: columns `tokens` and `mask`.
        column: where it is kept, (B, T); 0 where the mask is false.
    """
    return batch.with_(**{column: logp_of_tokens(players.student, batch)})


@part
def noted_under(players: Players, batch: Batch, *, context: Expr = told(), column: str = "logp_old") -> Batch:
    """Keep how likely the student finds the tokens now, told something.

    log q(y_t | x, c, y_<t)

    Args:
        players: `student`.
        batch: columns `tokens`, `mask`, `length`, `prompt` and what the context reads.
        context: a batch part that tells the student something and keeps the targets.
        column: where it is kept, (B, T); 0 where the mask is false.
    """
    seen = _seen(players, batch, context)
    return batch.with_(**{column: _moved(logp_of_tokens(players.student, seen), seen["mask"], batch["mask"])})
