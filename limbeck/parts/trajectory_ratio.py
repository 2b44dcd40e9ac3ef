"""Rewards of whole answers that another player gave: one ratio an answer, and nearness to noted log-probabilities.

Shapes: B rows, T tokens, N target tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.said import said_pair
from limbeck.kernels.sampled import k3
from limbeck.part import part
from limbeck.parts.routing import per_token
from limbeck.parts.token import exact_weight
from limbeck.players import Players

__all__ = ["noted_reverse_kl", "trajectory_surrogate"]


def _logp(logits: Tensor, token: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, token[:, None])[:, 0]


@part
def trajectory_surrogate(
    players: Players, batch: Batch, weight: Tensor, *, low: float = 0.2, high: float = 0.2
) -> Tensor:
    """Make good answers of another player likelier as wholes, each weighed by how likely the student finds it.

    sum_b -min(r_b A_b, clip(r_b, 1 - low, 1 + high) A_b), r_b = prod_t q_t(y_t) / q_old_t(y_t)

    A weight of tokens weighs their shares: of the value, each target of a row has the same.

    Args:
        players: `student`.
        batch: columns `tokens`, `mask`, `advantage` (B,), and `logp_old` (B, T) of whoever gave the answers.
        weight: (B, T).
        low: how far below 1 a ratio counts.
        high: how far above.

    Raises:
        BadValue: a bound that is not positive.

    Source: Penaloza et al., "Privileged Information Distillation for Language Models", arXiv:2602.04942 (J_student).
    """
    if low <= 0 or high <= 0:
        raise BadValue(f"a ratio needs room on both sides of 1: low > 0 and high > 0, got {low:g} and {high:g}")
    mask_BT, token_N = batch["mask"], batch["tokens"][batch["mask"]]
    head = players.student(batch, "head").predicting(mask_BT)
    apart_N = per_token(head, _logp, token_N) - batch["logp_old"][mask_BT]
    row_N = mask_BT.nonzero()[:, 0]
    ratio_B = apart_N.new_zeros(batch.size).index_add_(0, row_N, apart_N).exp()
    good_B = batch["advantage"].to(ratio_B.dtype)
    free_B, cut_B = ratio_B * good_B, ratio_B.clamp(1 - low, 1 + high) * good_B
    value_B = -torch.minimum(free_B, cut_B) / mask_BT.sum(1).clamp(min=1)
    slope_B = -free_B.where(free_B <= cut_B, 0.0)
    return fused_sum(head, exact_weight(weight[mask_BT]), said_pair, token_N, value_B[row_N], slope_B[row_N])


@part
def noted_reverse_kl(players: Players, batch: Batch, weight: Tensor, *, column: str = "logp_plain") -> Tensor:
    """Keep the student near to log-probabilities that were noted, by its own tokens.

    sum_t w_t (r_t - 1 - log r_t), r_t = p_t(y_t) / q_t(y_t), with the derivative of KL(q || p)

    Args:
        players: `student`.
        batch: columns `tokens`, drawn from the student, `mask`, and `column` (B, T), which is log p_t(y_t).
        weight: (B, T).
        column: of what is noted.

    Source: Schulman, http://joschu.net/blog/kl-approx.html (the value); Tang and Munos, arXiv:2506.09477 (the
    derivative).
    """
    mask_BT = batch["mask"]
    head = players.student(batch, "head").predicting(mask_BT)
    given = batch["tokens"][mask_BT], batch[column][mask_BT]
    return fused_sum(head, exact_weight(weight[mask_BT]), k3().told, *given)
