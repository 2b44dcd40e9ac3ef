"""Reverse KL estimated from the tokens that the student said, one a position.

The tokens of the batch must be drawn from the student as it is, at the temperature of the loss: see
`limbeck.kernels.sampled` for the mean of each value and each derivative. Of the teacher only the log-probability of
those tokens counts, so a teacher that lists may list them alone.

Shapes: B rows, T tokens, N target tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue
from limbeck.kernels import sampled as kernels
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.sampled import Sampled
from limbeck.part import part
from limbeck.parts.listed import listed, lists
from limbeck.parts.token import exact_weight, shared_heads
from limbeck.players import Player, Players

__all__ = ["sampled_k1", "sampled_k2", "sampled_k3", "sampled_k3_literal"]


def _estimated(players: Players, batch: Batch, weight: Tensor, pair: Sampled) -> Tensor:
    """Sum an estimator over the targets, weighted."""
    mask, token_N = batch["mask"], batch["tokens"][batch["mask"]]
    weight_N = exact_weight(weight[mask])
    if not lists(players.teacher):
        student, teacher = shared_heads(players.student, players.teacher, batch)
        return fused_sum(student, weight_N, pair, token_N, teacher)
    if pair.temperature != 1:
        raise BadValue(f"{players.teacher.name} lists probabilities of temperature 1, so the loss has no other")
    student = players.student(batch, "head").predicting(mask)
    return fused_sum(student, weight_N, pair.told, token_N, _told(players.teacher, batch, student.size, token_N))


def _told(teacher: Player, batch: Batch, size: int, token_N: Tensor) -> Tensor:
    """The log-probabilities (N,) that a teacher lists for the tokens that were said."""
    ids_NK, logp_NK = listed(teacher, batch, size)
    here_NK = (ids_NK == token_N[:, None]) & (logp_NK > -torch.inf)
    if not here_NK.any(-1).all():
        raise BadData(f"{teacher.name} does not list token {int(token_N[~here_NK.any(-1)][0])}, which was said")
    return logp_NK.gather(-1, here_NK.int().argmax(-1, keepdim=True))[:, 0]


@part
def sampled_k1(players: Players, batch: Batch, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Estimate reverse KL by the log-ratio at the batch's own tokens.

    sum_t w_t log(q_t(y_t) / p_t(y_t)), with the derivative sum_t w_t log(q_t(y_t) / p_t(y_t)) d log q_t(y_t)

    The value is unbiased and may be negative; the derivative is unbiased for KL(q || p). That of the value itself is
    not: it has mean 0.

    Args:
        players: `student`, and `teacher`, a language model or one that lists.
        batch: columns `tokens`, drawn from the student, and `mask`.
        weight: (B, T).
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.
        BadData: a teacher that lists does not list a token that was said.

    Source: Schulman, http://joschu.net/blog/kl-approx.html; Tang and Munos, arXiv:2506.09477 (the derivative).
    """
    return _estimated(players, batch, weight, kernels.k1(temperature))


@part
def sampled_k2(players: Players, batch: Batch, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Estimate reverse KL by half the squared log-ratio at the batch's own tokens.

    sum_t w_t 1/2 log(q_t(y_t) / p_t(y_t))^2

    The value is biased and never negative; its derivative is unbiased for KL(q || p).

    Args:
        players: `student`, and `teacher`, a language model or one that lists.
        batch: columns `tokens`, drawn from the student, and `mask`.
        weight: (B, T).
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.
        BadData: a teacher that lists does not list a token that was said.

    Source: Schulman, http://joschu.net/blog/kl-approx.html; Tang and Munos, arXiv:2506.09477 (the derivative).
    """
    return _estimated(players, batch, weight, kernels.k2(temperature))


@part
def sampled_k3(players: Players, batch: Batch, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Estimate reverse KL by a Bregman distance at the batch's own tokens.

    sum_t w_t (r_t - 1 - log r_t), r_t = p_t(y_t) / q_t(y_t), with the derivative of `sampled_k2`

    The value is unbiased and never negative; the derivative is unbiased for KL(q || p).

    Args:
        players: `student`, and `teacher`, a language model or one that lists.
        batch: columns `tokens`, drawn from the student, and `mask`.
        weight: (B, T).
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.
        BadData: a teacher that lists does not list a token that was said.

    Source: Schulman, http://joschu.net/blog/kl-approx.html; Tang and Munos, arXiv:2506.09477 (the derivative).
    """
    return _estimated(players, batch, weight, kernels.k3(temperature))


@part
def sampled_k3_literal(players: Players, batch: Batch, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Estimate as `sampled_k3` does, with the value's own derivative: the penalty of GRPO.

    sum_t w_t (r_t - 1 - log r_t), r_t = p_t(y_t) / q_t(y_t)

    The value is unbiased for KL(q || p), the derivative for that of KL(p || q): it pulls as forward KL does.

    Args:
        players: `student`, and `teacher`, a language model or one that lists.
        batch: columns `tokens`, drawn from the student, and `mask`.
        weight: (B, T).
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.
        BadData: a teacher that lists does not list a token that was said.

    Source: Shao et al., "DeepSeekMath", arXiv:2402.03300, equation 4.
    """
    return _estimated(players, batch, weight, kernels.k3_literal(temperature))
