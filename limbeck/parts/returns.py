"""What is still to come: advantages of tokens made of the teacher's verdict on those after them.

The gradient of KL(q || p) of whole answers splits into a part for every token's own distribution, which is exact and
needs no sampling (`limbeck.parts.token.reverse_kl`), and one for what the token leads to:

    d KL = E_{y ~ q} sum_t [d KL(q_t || p_t) - R_t d log q(y_t | y_<t)],  R_t = sum_{s > t} log(p(y_s) / q(y_s))

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.players import Players

__all__ = ["length_normalised", "log_ratio_returns", "whitened"]


def _after(value_BT: Tensor) -> Tensor:
    """The sum of all later values in each row.

    Example:
        >>> _after(torch.tensor([[0.0, 1.0, 2.0, 4.0]]))
        tensor([[7., 6., 4., 0.]])
    """
    return value_BT.flip(1).cumsum(1).flip(1) - value_BT


@part
def log_ratio_returns(players: Players, batch: Batch, *, scale: float = 1.0, clip: float = float("inf")) -> Batch:
    """Value every token by how the teacher likes what came after it, compared with the student.

    R_t = sum_{s > t} r_s, r_s = log(p(y_s | y_<s) / q(y_s | y_<s)) / scale, cut to [-clip, clip]

    Args:
        players: not asked.
        batch: columns `mask`, `logp_student` and `logp_teacher` (see `limbeck.parts.mixture_sampling`).
        scale: what rewards are divided by.
        clip: the largest size of a reward.

    Returns:
        The batch with `advantage` (B, T), which is R; 0 where the mask is false.

    Raises:
        BadValue: a scale or a bound that is not positive.

    Source: Gu et al., "MiniLLM", arXiv:2306.08543, equation 3.
    """
    if scale <= 0 or clip <= 0:
        raise BadValue(f"rewards need a scale and a bound above 0, got scale={scale:g} and clip={clip:g}")
    reward_BT = ((batch["logp_teacher"] - batch["logp_student"]) / scale).clamp(-clip, clip)
    return batch.with_(advantage=_after(reward_BT.where(batch["mask"], 0.0)).where(batch["mask"], 0.0))


@part
def length_normalised(players: Players, batch: Batch) -> Batch:
    """Turn the sum over later tokens into their mean, so that long answers do not weigh more, or short ones pay.

    A_t / (number of targets after t)

    Args:
        players: not asked.
        batch: columns `mask` and `advantage` (B, T).

    Returns:
        The batch with its new `advantage`; the last token, after which nothing comes, keeps its own.

    Source: Gu et al., "MiniLLM", arXiv:2306.08543, section 2.2.
    """
    return batch.with_(advantage=batch["advantage"] / _after(batch["mask"].float()).clamp(min=1))


def _mean(value_N: Tensor) -> Tensor:
    """The mean over the numbers of all processes."""
    both = torch.stack((value_N.sum(dtype=torch.float64), value_N.new_tensor(len(value_N), dtype=torch.float64)))
    if dist.is_initialized():
        dist.all_reduce(both)
    return both[0] / both[1].clamp(min=1)


@part
def whitened(players: Players, batch: Batch, *, eps: float = 1e-8) -> Batch:
    """Shift and scale advantages to mean 0 and deviation 1 over all targets of the global batch.

    (A - mean A) / sqrt(var A + eps)

    Args:
        players: not asked.
        batch: columns `mask` and `advantage` (B, T).
        eps: keeps the quotient finite where all advantages are alike.

    Returns:
        The batch with its new `advantage`; 0 where the mask is false.

    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
        arXiv:1506.02438, whose advantages are standardised so in common code.
    """
    mask_BT, given_BT = batch["mask"], batch["advantage"]
    apart_BT = given_BT - _mean(given_BT[mask_BT])
    deviation = (_mean(apart_BT[mask_BT].square()) + eps).sqrt()
    return batch.with_(advantage=(apart_BT / deviation).to(given_BT.dtype).where(mask_BT, 0.0))
