"""A teacher that is too sure: the likeliest tokens that it names, and ways to make their probabilities true.

    Make("ask", remember_likeliest(k=5), into="asked")              the lists, once; the player `cache` has them
    Solve("calibrate", least_ece(), learns=("calibration",))        how much too sure it is, on rows held out
    Phase(..., renormalised_kl().on(teacher="cache"), tempered())   learn the lists as they were made less sure

Lists are stored with a log-probability of -1e30 where they are shorter than others.

Shapes: B rows, T tokens, N target tokens, K listed tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.renormalised import renormalised_kl_pair
from limbeck.part import Part, part
from limbeck.parts.listed import listed, lists
from limbeck.parts.sparse import capture, likeliest
from limbeck.parts.token import exact_weight
from limbeck.players import Players

__all__ = [
    "Constant",
    "calibration_error",
    "constant",
    "least_ece",
    "remember_likeliest",
    "renormalised_kl",
    "smoothed",
    "softened",
    "tempered",
]

NEVER = -1e30
GRID = tuple(round(1 + 0.1 * i, 1) for i in range(91))

State = Mapping[str, Tensor]


@part
def remember_likeliest(players: Players, batch: Batch, *, k: int = 5) -> Batch:
    """Keep the teacher's likeliest tokens at each target beside the rows, for the player `cache`.

    K_t = {v : p_t(v) is among the k largest}

    Args:
        players: `teacher`, a language model or one that lists, and `student`, whose vocabulary counts.
        batch: columns `tokens` and `mask`.
        k: how many.

    Returns:
        The rows with the columns `cache.ids` and `cache.logp` (B, T, K).

    Raises:
        BadValue: k is below 1.
        Mismatch: lists for other tokens than those of the batch, or of tokens that the student does not have.
    """
    mask, size = batch.mask, int(players.student.vocab)
    if lists(players.teacher):
        ids_NL, logp_NL = listed(players.teacher, batch, size)
        logp_NK, place_NK = logp_NL.topk(min(k, logp_NL.shape[-1]), -1)
        ids_NK = ids_NL.gather(-1, place_NK)
    else:
        head = players.teacher(batch, "head").predicting(mask)
        ids_NK, logp_NK, *_ = capture(head.first(min(size, head.size)), likeliest(k=k), _nothing)
    ids_BTK = ids_NK.new_zeros(*mask.shape, ids_NK.shape[-1])
    logp_BTK = logp_NK.new_zeros(ids_BTK.shape)
    ids_BTK[mask], logp_BTK[mask] = ids_NK, logp_NK.clamp(min=NEVER)
    kept = {name: column for name, column in batch.columns.items() if name != "index"}
    return Batch({**kept, "cache.ids": ids_BTK, "cache.logp": logp_BTK})


def _nothing(n: int) -> Tensor:
    """Random numbers for targets that need none."""
    return torch.empty(0, n)


# -- how sure the teacher is to be ------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A number that is found, not learned.

    Args:
        value: where it starts.

    Example:
        >>> Constant(2.0)({}, frozenset({"value"}))
        {'value': tensor(2.)}
    """

    value: Tensor

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(value))

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "value"."""
        return {"value": self.value} if "value" in want else {}


@part
def constant(players: Players, batch: Batch, *, value: float = 1.0) -> Constant:
    """A number, as a state player.

    c

    Args:
        players: not asked.
        batch: not read.
        value: where it starts.
    """
    return Constant(value)


def _spread(batch: Batch, scores_BTK: Tensor) -> Batch:
    """The rows with the softmax of some scores over each list for its probabilities."""
    none = batch["cache.logp"] <= NEVER / 2
    logp_BTK = scores_BTK.masked_fill(none, -torch.inf).log_softmax(-1).masked_fill(none, NEVER)
    return batch.with_(**{"cache.logp": logp_BTK})


@part
def tempered(players: Players, batch: Batch) -> Batch:
    """Raise the probabilities of each list to a power, and bring their sum to 1.

    q'(i) = q(i)^(1/c) / sum_{j in K} q(j)^(1/c)

    Args:
        players: `calibration` knows c.
        batch: columns `cache.ids` and `cache.logp`.

    Source: Shum et al., arXiv:2408.12168, section 3.3 (temperature scaling).
    """
    return _spread(batch, batch["cache.logp"] / players.calibration(batch, "value"))


@part
def softened(players: Players, batch: Batch) -> Batch:
    """Take the probabilities of each list for logits: nearly even ones, for all are between 0 and 1.

    q'(i) = exp(q(i) / c) / sum_{j in K} exp(q(j) / c)

    Args:
        players: `calibration` knows c.
        batch: columns `cache.ids` and `cache.logp`.

    Source: https://github.com/SHUMKASHUN/FIRST, distill.py.
    """
    return _spread(batch, batch["cache.logp"].exp() / players.calibration(batch, "value"))


@part
def smoothed(players: Players, batch: Batch, *, d: float = 0.1) -> Batch:
    """Take from the likeliest token of each list, and give to the others alike.

    q'(1) = q(1) - d, q'(i) = q(i) + d / (K - 1), with q summing to 1 over the list

    Args:
        players: not asked.
        batch: columns `cache.ids` and `cache.logp`.
        d: how much.

    Raises:
        BadValue: lists of one token, or more taken than the likeliest of K tokens can have: d >= 1 / K.

    Source: Shum et al., arXiv:2408.12168, section 3.3 (label smoothing).
    """
    logp_BTK = batch["cache.logp"]
    k = logp_BTK.shape[-1]
    if not 0 <= d < 1 / k or k == 1:
        raise BadValue(f"smoothed needs lists of two tokens or more and 0 <= d < 1 / {k}, got d={d:g}")
    q_BTK = logp_BTK.log_softmax(-1).exp()
    top_BTK = torch.zeros_like(q_BTK).scatter_(-1, q_BTK.argmax(-1, keepdim=True), 1.0)
    return _spread(batch, (q_BTK - d * top_BTK + d / (k - 1) * (1 - top_BTK)).log())


def calibration_error(confidence_N: Tensor, right_N: Tensor, bins: int = 10) -> float:
    """The expected calibration error over bins of equal width.

    sum_b |B_b| / N |accuracy(B_b) - confidence(B_b)|

    Args:
        confidence_N: the probability of what was held to be likeliest.
        right_N: whether it was right.
        bins: how many.

    Example:
        >>> round(calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([True, False])), 3)
        0.4

    Source: Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, equation 3.
    """
    excess_N = right_N.double() - confidence_N.double()
    bin_N = (confidence_N.double() * bins).ceil().long().clamp(1, bins) - 1
    per_bin = torch.zeros(bins, dtype=torch.double, device=bin_N.device).index_add_(0, bin_N, excess_N)
    return float(per_bin.abs().sum() / max(1, len(bin_N)))


@part
def least_ece(
    players: Players,
    batch: Batch,
    state: State,
    *,
    recalibrate: Part = tempered(),
    temperatures: tuple[float, ...] = GRID,
    bins: int = 10,
) -> tuple[State, dict[str, Any]]:
    """Choose the temperature at which the teacher's confidence is nearest to how often it is right.

    c = argmin_c ECE(max_i q'(i), [argmax_i q'(i) = y])

    Args:
        players: `calibration`, which takes c.
        batch: all held-out rows, with `cache.ids` and `cache.logp`; their target tokens are the truth.
        state: stays empty.
        recalibrate: a batch part that changes the probabilities by c.
        temperatures: what is tried; of equals, the first.
        bins: of the calibration error.

    Returns:
        The state; c, and the error with it.

    Raises:
        BadValue: a temperature that is not positive.

    Source: Shum et al., arXiv:2408.12168, section 3.3.
    """
    if not temperatures or min(temperatures) <= 0:
        raise BadValue(f"least_ece needs temperatures above 0, got {temperatures}")
    value, tried = players.calibration.module.get_buffer("value"), []  # type: ignore[union-attr]
    for i, c in enumerate(temperatures):
        value.fill_(c)
        tried.append((_error(recalibrate(players, batch.with_()), bins), i))
    error, best = min(tried)
    value.fill_(temperatures[best])
    return state, {"temperature": temperatures[best], "ece": error}


def _error(batch: Batch, bins: int) -> float:
    """The calibration error of the lists at the targets."""
    logp_NK, ids_NK = batch["cache.logp"][batch.mask], batch["cache.ids"][batch.mask]
    confidence_N, place_N = logp_NK.exp().max(-1)
    said_N = ids_NK.gather(-1, place_N[:, None])[:, 0]
    return calibration_error(confidence_N, said_N == batch.tokens[batch.mask], bins)


# -- the loss ---------------------------------------------------------------------------------------------------------


@part
def renormalised_kl(players: Players, batch: Batch, weight: Tensor) -> Tensor:
    """Make the student cover what the teacher lists, with nothing but the list on both sides.

    sum_t w_t sum_{i in K_t} p'_t(i) log(p'_t(i) / q'_t(i)), p' and q' brought to a sum of 1 over K_t

    Args:
        players: `student`, and `teacher`, which lists.
        batch: columns `tokens` and `mask`.
        weight: (B, T).

    Raises:
        Mismatch: lists for other tokens than those of the batch, or of tokens that the student does not have.

    Source: Shum et al., arXiv:2408.12168, section 3.4.
    """
    student = players.student(batch, "head").predicting(batch["mask"])
    ids_NK, logp_NK = listed(players.teacher, batch, student.size)
    logp_NK = logp_NK.masked_fill(logp_NK <= NEVER / 2, -torch.inf).log_softmax(-1)
    return fused_sum(student, exact_weight(weight[batch["mask"]]), renormalised_kl_pair, ids_NK, logp_NK)
