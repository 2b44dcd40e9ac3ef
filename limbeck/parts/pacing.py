"""Pacing: prompts are weighed by how often the student gets them right, most where it does so now and then.

    Make("rate", rated(said=rollout(), verifier=...), into="rated") and Make("weigh", paced(), into="paced", chunk=0)

leave rows with a column `weight` of mean 1, by which `pace() * loss` weighs them.

Shapes: B rows (prompts), K rollouts a prompt.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue
from limbeck.part import Expr, Part, part
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import answers, contains_answer, marks, repeated, take
from limbeck.players import Players

__all__ = ["beta_kernel", "pace", "paced", "rated"]


def beta_kernel(p_B: Tensor, alpha: float, beta: float) -> Tensor:
    """The weight of a pass rate, p^alpha (1 - p)^beta.

    Args:
        p_B: pass rates in [0, 1].
        alpha: at least 0; 0 does not spare prompts that are never solved.
        beta: at least 0; 0 does not spare prompts that always are.

    Raises:
        BadValue: a negative exponent.

    Example:
        >>> import torch
        >>> beta_kernel(torch.tensor([0.0, 0.25, 0.5]), 1.0, 1.0)
        tensor([0.0000, 0.1875, 0.2500])

    Source: Xu et al., arXiv:2603.11178.
    """
    if min(alpha, beta) < 0:
        raise BadValue(f"the weight p^alpha (1 - p)^beta needs exponents of at least 0, got {alpha:g} and {beta:g}")
    return p_B**alpha * (1 - p_B) ** beta


@part
def rated(
    players: Players, batch: Batch, *, said: Expr = rollout(), verifier: Part = contains_answer(), copies: int = 8,
    smooth: float = 0.0,
) -> Batch:  # fmt: skip
    """Find how often the student answers each prompt right.

    p = (s + smooth) / (K + 2 smooth), with s right answers among K

    Args:
        players: the student speaks.
        batch: rows with prompts and what the verifier reads.
        said: the batch part that makes the student's answers.
        verifier: marks an answer in [0, 1].
        copies: K.
        smooth: 1 keeps p away from 0 and 1.

    Returns:
        The rows as they were, with the column `pass_rate` (B,).

    Raises:
        BadValue: a student without a tokenizer, or fewer than one copy.
        BadData: prompts that were not answered every time.

    Source: Xu et al., arXiv:2603.11178.
    """
    many = said(players, repeated(copies=copies)(players, batch))  # type: ignore[operator]
    if many.size != copies * batch.size:
        raise BadData(f"a pass rate needs {copies} answers to each prompt, but some of {batch.size} prompts got fewer")
    found_BK = marks(answers(players.student, many), many, verifier).view(batch.size, copies)
    p_B = (found_BK.sum(1) + smooth) / (copies + 2 * smooth)
    return batch.with_(pass_rate=p_B.float().to(batch.device))


@part
def paced(players: Players, batch: Batch, *, alpha: float = 1.0, beta: float = 1.0) -> Batch:
    """Weigh prompts by their pass rates; those of weight 0 are left out.

    w = p^alpha (1 - p)^beta / mean of it over the rows that stay

    Args:
        players: not asked.
        batch: column `pass_rate`; all rows of the data, over which the mean is taken.
        alpha: at 0 prompts that are never solved stay.
        beta: at 0 prompts that always are stay.

    Returns:
        The rows that stay, perhaps none, with the column `weight` (B,) of mean 1.

    Raises:
        BadValue: a negative exponent.

    Source: Xu et al., arXiv:2603.11178.
    """
    weight_B = beta_kernel(batch["pass_rate"], alpha, beta)
    kept = take(batch.with_(weight=weight_B), (weight_B > 0).nonzero()[:, 0].tolist())
    return kept.with_(weight=kept["weight"] / kept["weight"].mean()) if kept.size else kept


@part
def pace(players: Players, batch: Batch) -> Tensor:
    """Weigh rows by their column `weight`.

    w

    Args:
        players: not asked.
        batch: column `weight` (B,).

    Returns:
        (B,).
    """
    weight_B: Tensor = batch["weight"]
    return weight_B
