"""Token losses over the likeliest tokens, with all others as one more outcome.

Which tokens are the likeliest is taken as given: no gradient goes through the choice. With the rest as an outcome, the
form of reverse KL in which the log-ratio is held fixed has the same gradient as the full one; without it, as when only
the k terms are summed, the student can lower the loss by moving its mass off the list.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.kernels.head import TokenHead
from limbeck.part import Part, part
from limbeck.parts.listed import Narrowed
from limbeck.parts.token import forward_kl, reverse_kl
from limbeck.players import Players

__all__ = ["own_top_k", "top_k"]


def _narrowed(players: Players, batch: Batch, weight: Tensor, loss: Part, k: int, own: bool) -> Tensor:
    """Evaluate a token loss with a teacher that is compared over few tokens."""
    if loss.spec.takes != ("players", "batch", "weight"):
        raise BadValue(f"top_k needs a token loss such as forward_kl(), got {loss!r}")
    teacher = players.teacher

    def answer(batch: Batch, want: frozenset[str]) -> dict[str, Any]:
        head: TokenHead = teacher(batch, "head")
        return {"head": Narrowed(head.hidden, head.weight, head.bias, head.softcap, head.scale, k, own)}

    view = copy(teacher)  # what its answers are remembered under must not be what the teacher's own are
    chooser = players.student if own else teacher
    view.name, view.wants, view.answer = f"{teacher.name} over {k} of {chooser.name}", {}, answer
    game = players.replaced(teacher=view)
    return loss.spec.fn(game, batch, weight, **loss.resolved(batch.at))


@part
def top_k(players: Players, batch: Batch, weight: Tensor, *, loss: Part = forward_kl(), k: int = 100) -> Tensor:
    """Compare student and teacher over the teacher's k likeliest tokens and "any other".

    sum_t w_t D(p'_t, q'_t), p' = (p_v1, ..., p_vk, 1 - sum_i p_vi) with v1, ..., vk the likeliest under p, q' likewise

    Args:
        players: `student` and `teacher`, language models.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        loss: D, a token loss between distributions.
        k: how many tokens.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: k below 1, or a loss that is no divergence between distributions.
    """
    return _narrowed(players, batch, weight, loss, k=k, own=False)


@part
def own_top_k(players: Players, batch: Batch, weight: Tensor, *, loss: Part = reverse_kl(), k: int = 100) -> Tensor:
    """Compare student and teacher over the student's k likeliest tokens and "any other".

    sum_t w_t D(p'_t, q'_t), p' = (p_v1, ..., p_vk, 1 - sum_i p_vi) with v1, ..., vk the likeliest under q, q' likewise

    Args:
        players: `student` and `teacher`, language models.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        loss: D, a token loss between distributions.
        k: how many tokens.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: k below 1, or a loss that is no divergence between distributions.

    Source: Hübotter et al., "Reinforcement Learning via Self-Distillation", arXiv:2601.20802 (its top-K).
    """
    return _narrowed(players, batch, weight, loss, k=k, own=True)
