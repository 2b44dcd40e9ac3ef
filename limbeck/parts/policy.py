"""Policy gradients for language models: rewards of answers, advantages among copies of a row, and their surrogate.

A step draws several answers to every prompt, marks them, and makes those likelier that are better than their like:

    repeated(copies=8) >> rollout() >> graded() >> group_relative(copies=8) >> recorded()

Phases that have the same batch part share its rows: a second one takes a second step on the same answers, under the
probabilities that `recorded` kept.

Shapes: B rows, T tokens, N target tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.kernels.fused import fused_sum, rows_of_chunk
from limbeck.kernels.head import TokenHead
from limbeck.kernels.surrogate import Surrogate
from limbeck.part import Part, part
from limbeck.parts.rollout import recalled_logp
from limbeck.parts.token import exact_weight
from limbeck.parts.transcript import answers, contains_answer, marks
from limbeck.players import Player, Players

__all__ = [
    "clipped_surrogate",
    "graded",
    "group_relative",
    "group_standardised",
    "leave_one_out",
    "logp_of_tokens",
    "logp_said",
    "recorded",
]


@part
def graded(players: Players, batch: Batch, *, verifier: Part = contains_answer()) -> Batch:
    """Mark every answer: the reward of a policy gradient.

    r_b = r(y_b)

    Args:
        players: the student, whose tokenizer reads the answers.
        batch: columns `tokens` and `mask`, which is true on the answer, and whatever the verifier reads.
        verifier: gives a mark in [0, 1].

    Returns:
        The batch with `reward` (B,), float32.

    Raises:
        BadValue: a student without a tokenizer.
    """
    reward_B = marks(answers(players.student, batch), batch, verifier)
    return batch.with_(reward=reward_B.float().to(batch.device))


def _groups(batch: Batch, copies: int) -> Tensor:
    """Number the group (B,) of every row: its `group`, or else the row of the data, and which time it came.

    Copies have consecutive streams, so that groups stay apart wherever rows were left out, and where a large batch has
    a row of the data twice.
    """
    if "group" in batch:
        known: Tensor = batch["group"].unique(return_inverse=True)[1]
        return known
    if copies < 1:
        raise BadValue(f"a group needs copies >= 1, got {copies}")
    both_B2 = torch.stack((batch["index"], batch.rng.rows // copies), 1)
    group_B: Tensor = both_B2.unique(dim=0, return_inverse=True)[1]
    return group_B


def _advantage(batch: Batch, copies: int, rule: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Batch:
    """Put `advantage` into the batch: a rule of r - mean, the sum of its squares in the group, and the group's size."""
    reward_B, group_B = batch["reward"], _groups(batch, copies)

    def total(value_B: Tensor) -> Tensor:
        sums = value_B.new_zeros(batch.size).index_add_(0, group_B, value_B)
        return sums[group_B]

    size_B = total(torch.ones_like(reward_B))
    apart_B = reward_B - total(reward_B) / size_B
    return batch.with_(advantage=rule(apart_B, total(apart_B.square()), size_B))


@part
def group_relative(players: Players, batch: Batch, *, copies: int = 8) -> Batch:
    """Compare every answer with the mean of its group, the answers to the same prompt.

    A_i = r_i - mean_j r_j

    Args:
        players: not asked.
        batch: column `reward`; its groups are the copies that `repeated` made of a row, or rows of equal `group` (B,)
            int64, where the batch has that column.
        copies: of each row, as `repeated` made them.

    Returns:
        The batch with `advantage` (B,); 0 in a group of one.

    Raises:
        BadValue: fewer than one copy.

    Source: Liu et al., "Understanding R1-Zero-Like Training", arXiv:2503.20783, section 3.2 (Dr. GRPO).
    """
    return _advantage(batch, copies, lambda apart, squares, size: apart)


@part
def group_standardised(players: Players, batch: Batch, *, copies: int = 8, eps: float = 1e-4) -> Batch:
    """Compare every answer with the mean of its group, in units of the group's deviation.

    A_i = (r_i - mean_j r_j) / (std_j r_j + eps), std with n - 1 in the denominator

    Args:
        players: not asked.
        batch: as for `group_relative`.
        copies: of each row, as `repeated` made them.
        eps: keeps groups whose rewards are alike at 0.

    Returns:
        The batch with `advantage` (B,); 0 in a group of one.

    Raises:
        BadValue: fewer than one copy.

    Source: Shao et al., "DeepSeekMath", arXiv:2402.03300, section 4.1.2 (GRPO).
    """
    return _advantage(
        batch, copies, lambda apart, squares, size: apart / ((squares / (size - 1).clamp(min=1)).sqrt() + eps)
    )


@part
def leave_one_out(players: Players, batch: Batch, *, copies: int = 8) -> Batch:
    """Compare every answer with the mean of the others in its group, which leaves the gradient unbiased.

    A_i = r_i - mean_{j != i} r_j

    Args:
        players: not asked.
        batch: as for `group_relative`.
        copies: of each row, as `repeated` made them.

    Returns:
        The batch with `advantage` (B,); 0 in a group of one.

    Raises:
        BadValue: fewer than one copy.

    Source: Ahmadian et al., "Back to Basics: Revisiting REINFORCE Style Optimization", arXiv:2402.14740 (RLOO).
    """
    return _advantage(batch, copies, lambda apart, squares, size: apart * size / (size - 1).clamp(min=1))


def logp_said(head: TokenHead, token_N: Tensor) -> Tensor:
    """The log-probability that a head gives to each token, its logits made a few tokens at a time.

    Args:
        head: (N, D) rows.
        token_N: the tokens.

    Returns:
        (N,), float32 or better, without gradient.

    Example:
        >>> logp_said(TokenHead(torch.zeros(2, 3), torch.ones(4, 3)), torch.tensor([0, 3])).exp()
        tensor([0.2500, 0.2500])
    """
    rows, head = rows_of_chunk(head), head.detach()
    tokens = token_N.split(rows) if len(token_N) else ()
    pieces = [z.log_softmax(-1).gather(-1, y[:, None])[:, 0] for z, y in zip(head.chunks(rows), tokens, strict=True)]
    return torch.cat(pieces) if pieces else token_N.float()


@torch.no_grad()
def logp_of_tokens(player: Player, batch: Batch) -> Tensor:
    """The log-probability that a player gives to every target.

    Args:
        player: a language model.
        batch: columns `tokens` and `mask` (B, T).

    Returns:
        (B, T), float32 or better; 0 where the mask is false.
    """
    mask_BT = batch["mask"]
    logp_N = logp_said(player(batch, "head").predicting(mask_BT), batch["tokens"][mask_BT])
    return logp_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, logp_N)


@part
def recorded(players: Players, batch: Batch) -> Batch:
    """Keep how likely the student finds the tokens now, before it learns from them.

    logp_old_t = log q(y_t | y_<t), at temperature 1, as in the ratio of `clipped_surrogate`

    What the student has just said it need not be asked again: `rollout` kept it, whatever temperature it sampled at.

    Args:
        players: `student`.
        batch: columns `tokens` and `mask`.

    Returns:
        The batch with `logp_old` (B, T), float32 or better; 0 where the mask is false.
    """
    known = recalled_logp(players.student, batch)
    return batch.with_(logp_old=logp_of_tokens(players.student, batch) if known is None else known)


@part
def clipped_surrogate(players: Players, batch: Batch, weight: Tensor, *, low: float = 0.2, high: float = 0.2) -> Tensor:
    """Make tokens of good answers likelier and of bad ones less so, as long as they are about as likely as they were.

    sum_t w_t -min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t), r_t = q_t(y_t) / q_old_t(y_t)

    While the student is what it was, r = 1, and the derivative is the policy gradient -A_t d log q_t(y_t).

    Args:
        players: `student`.
        batch: columns `tokens`, `mask`, `advantage`, (B,) or (B, T), and `logp_old` (B, T); without that, r = 1.
        weight: (B, T).
        low: how far below 1 a ratio counts.
        high: how far above.

    Raises:
        BadValue: a bound that is not positive.

    Source: Schulman et al., "Proximal Policy Optimization Algorithms", arXiv:1707.06347, equation 7.
    """
    if low <= 0 or high <= 0:
        raise BadValue(f"a ratio needs room on both sides of 1: low > 0 and high > 0, got {low:g} and {high:g}")
    mask_BT, good = batch["mask"], batch["advantage"]
    good_BT = good if good.ndim == 2 else good[:, None].expand(mask_BT.shape)
    old = (batch["logp_old"][mask_BT],) if "logp_old" in batch else ()
    head = players.student(batch, "head").predicting(mask_BT)
    given = (batch["tokens"][mask_BT], good_BT[mask_BT], *old)
    return fused_sum(head, exact_weight(weight[mask_BT]), Surrogate(low, high), *given)
