"""Answers that student and teacher give together: every token is drawn from a mixture of both.

A student that is asked alone finds answers that its teacher scores well for a wrong reason, such as one word said over
and over; a share of the teacher keeps it on roads that the teacher knows.

Shapes: B rows, T tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue, Mismatch
from limbeck.part import part
from limbeck.parts.policy import logp_said
from limbeck.parts.rollout import rollout
from limbeck.parts.token import shared_heads
from limbeck.players import Player, Players
from limbeck.roles import frozen

__all__ = ["Mixture", "mixed_rollout", "scored"]


class Mixture(nn.Module):
    """A net that answers "next" with the mixture of two nets' distributions, and "cache" with both caches.

    log(share p + (1 - share) q), token by token

    Args:
        student: gives q; what ends a text, what pads it, and its length are the student's.
        teacher: gives p; of the same tokenizer.
        share: of the teacher.

    Raises:
        Mismatch: nets of different tokenizers.
    """

    def __init__(self, student: Any, teacher: Any, share: float) -> None:
        super().__init__()
        if student.family != teacher.family or not (student.family or student.vocab == teacher.vocab):
            raise Mismatch("student and teacher have different tokenizers, so their tokens cannot be mixed")
        self.student, self.teacher, self.share = student, teacher, share
        self.eos, self.pad, self.context = student.eos, student.pad, student.context
        self.reads = tuple(getattr(student, "reads", ()))
        self.vocab: int = min(student.vocab, teacher.vocab)
        self.eval()

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "next" (B, V), float64, and "cache"."""
        caches = batch["cache"] or (None, None)
        nets = (self.student, self.teacher)
        said = [net({**batch, "cache": cache}, want) for net, cache in zip(nets, caches, strict=True)]
        log_q, log_p = (answer["next"][:, : self.vocab].double().log_softmax(-1) for answer in said)
        return {"next": _mixed(log_q, log_p, self.share), "cache": tuple(answer["cache"] for answer in said)}


def _mixed(log_q: Tensor, log_p: Tensor, share: float) -> Tensor:
    """The logarithm of (1 - share) q + share p.

    Example:
        >>> _mixed(torch.tensor([0.5]).log(), torch.tensor([0.1]).log(), 0.25).exp()
        tensor([0.4000])
    """
    if share in (0, 1):
        return log_p if share else log_q
    return torch.logaddexp(log_q + math.log1p(-share), log_p + math.log(share))


@part
def scored(players: Players, batch: Batch) -> Batch:
    """Keep how likely student and teacher find every target now.

    log q(y_t | y_<t) and log p(y_t | y_<t)

    Args:
        players: `student` and `teacher`, language models.
        batch: columns `tokens` and `mask`.

    Returns:
        The batch with `logp_student` and `logp_teacher` (B, T), float32 or better; 0 where the mask is false.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
    """
    mask_BT, token_N = batch["mask"], batch["tokens"][batch["mask"]]
    pair = [logp_said(head, token_N) for head in shared_heads(players.student, players.teacher, batch)]
    student_BT, teacher_BT = (logp.new_zeros(mask_BT.shape).masked_scatter(mask_BT, logp) for logp in pair)
    return batch.with_(logp_student=student_BT, logp_teacher=teacher_BT)


@part
def mixed_rollout(players: Players, batch: Batch, *, share: float = 0.2, max_new_tokens: int = 128) -> Batch:
    """Replace every answer by one whose tokens are drawn from a mixture of student and teacher.

    y_t ~ p~(. | x, y_<t) = share p + (1 - share) q

    Args:
        players: `student` and `teacher`, language models of one tokenizer.
        batch: columns `tokens`, and `prompt` (B,), how many of them are the prompt.
        share: of the teacher, in [0, 1]; alpha in the paper.
        max_new_tokens: a row stops there if it does not end itself.

    Returns:
        The batch with new `tokens`, `length` and `mask`; with `logp_student` and `logp_teacher` (see `scored`); and
        with `logp_old` (B, T), log p~ of every target, so that the ratio of a surrogate is q / p~: the importance
        weight, token by token, is in it.

    Raises:
        BadValue: a share outside [0, 1].
        Mismatch: players of different tokenizers.
        BadData: a prompt that is empty or too long.

    Source: Gu et al., "MiniLLM", arXiv:2306.08543, section 2.2.
    """
    if not 0 <= share <= 1:
        raise BadValue(f"the teacher's share of a mixture must be in [0, 1], got {share:g}")
    net = Mixture(players.student.module, players.teacher.module, share)
    speaking = Players({"student": Player("mixture", frozen(), net)})
    said = scored()(players, rollout(max_new_tokens=max_new_tokens)(speaking, batch))
    mixed_BT = _mixed(said["logp_student"], said["logp_teacher"], share)
    return said.with_(logp_old=mixed_BT.where(said["mask"], 0.0))  # type: ignore[no-any-return]
