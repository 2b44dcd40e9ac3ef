"""The ratio of the teacher's density to the student's under noise, as a discriminator has it, and what it weighs.

A discriminator that is fitted by cross-entropy has the logit log(p_t / q_t). Its ratio is clipped, and divided by its
own running mean near the same level, for the mean of an exact ratio over the student's samples is 1. That mean is the
memory of a player, a number for every stretch of levels, fitted like any other: under plain gradient descent the fit
is a moving average.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.curvature import jensen_shannon
from limbeck.parts.distribution import dm_gradient, inject
from limbeck.parts.states import karras_levels, like, noised
from limbeck.players import Players

__all__ = ["Staircase", "density_ratio", "f_matching", "mean_ratio", "ratio_drift", "ratio_of"]

MIDDLE, SHANNON = karras_levels(), jensen_shannon()


class Staircase(nn.Module):
    """A number for each of several equal stretches of levels.

    Args:
        bins: how many.

    Example:
        >>> Staircase(10)({"t": torch.tensor([0.25, 1.0])}, frozenset({"mean"}))["mean"].tolist()
        [1.0, 1.0]
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.ones(bins))

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "mean" (B,) on the column t."""
        n = len(self.height)
        return {"mean": self.height[(batch["t"] * n).long().clamp(0, n - 1)]}


@part
def mean_ratio(players: Players, batch: Batch, *, bins: int = 10) -> Staircase:
    """Build the memory of the mean ratio: 1 everywhere, as for an exact one.

    m(t) = m_k for t in [k / K, (k + 1) / K)

    Args:
        players: not asked.
        batch: not read.
        bins: K.

    Returns:
        The module.

    Source: Xu et al., arXiv:2502.15681, the normalisation of the ratio, as in its code.
    """
    return Staircase(bins)


def ratio_of(logit: Tensor, low: float, high: float) -> Tensor:
    """The ratio that a logit stands for, clipped.

    r = clip(exp(D), low, high)

    Args:
        logit: (B,) high for real.
        low: the least ratio.
        high: the greatest.

    Returns:
        (B,), held fixed.

    Example:
        >>> ratio_of(torch.tensor([0.0, 99.0]), 0.1, 20.0)
        tensor([ 1., 20.])

    Source: Xu et al., arXiv:2502.15681, the ratio of a discriminator, with the bounds of its code.
    """
    return logit.detach().clamp(-10.0, 10.0).exp().clamp(low, high)


def density_ratio(players: Players, seen: Batch, low: float, high: float) -> Tensor:
    """The clipped ratio at noised samples, divided by its running mean where there is a player `usual` that keeps it.

    clip(exp(D(x_t)), low, high) / m(t)

    Args:
        players: the critic answers the source of the head, the head "logit", `usual` "mean".
        seen: the noised samples, columns x and t.
        low: the least ratio.
        high: the greatest.

    Returns:
        (B,), held fixed.

    Raises:
        UnknownName: there is no player `head`, or none `critic`.
    """
    with torch.no_grad():
        logit = players.head(seen.with_(features=players.critic(seen, players.head.source)), "logit")
        r = ratio_of(logit, low, high)
        return r / players.usual(seen, "mean").clamp(min=low) if "usual" in players else r


@part
def ratio_drift(
    players: Players, batch: Batch, *, levels: Expr = MIDDLE, low: float = 0.1, high: float = 20.0
) -> Tensor:
    """Let the running mean of the ratio follow it.

    1/2 (m(t) - clip(exp(D(x_t)), low, high))^2; a step of gradient descent at rate a keeps 1 - a of the old mean

    Args:
        players: the student answers "x0", the critic the source of the head, the head "logit", `usual` "mean".
        batch: the student's states, columns x and t.
        levels: a level part for the noise.
        low: the least ratio.
        high: the greatest.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `usual`, or none `head`.

    Source: Xu et al., arXiv:2502.15681, the normalisation of the ratio, as in its code.
    """
    with torch.no_grad():
        seen = noised(players, batch, players.student(batch, "x0"), levels, "usual")
        logit = players.head(seen.with_(features=players.critic(seen, players.head.source)), "logit")
    return 0.5 * (players.usual(seen, "mean") - ratio_of(logit, low, high)).square()


@part
def f_matching(
    players: Players,
    batch: Batch,
    *,
    curvature: Expr = SHANNON,
    levels: Expr = MIDDLE,
    low: float = 0.1,
    high: float = 20.0,
) -> Tensor:
    """Descend an f-divergence between the noised student and the noised teacher.

    1/2 ||x - sg[x - h(r) g]||^2 / N, g = (mu_critic(x_t) - mu_teacher(x_t)) / mean|x - mu_teacher(x_t)|, r = p_t / q_t

    Args:
        players: student, teacher and critic answer "x0", the critic the source of the head too, the head "logit";
            `usual` answers "mean", if it is there.
        batch: the student's states, columns x and t.
        curvature: h, a part of `limbeck.parts.curvature`; `reverse_kl()` is plain distribution matching.
        levels: a level part for the noise under which the two are compared.
        low: the least ratio.
        high: the greatest.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `critic`, `teacher` or `head`.

    Source: Xu et al., arXiv:2502.15681, the gradient of an f-divergence, as in its code.
    """
    x = players.student(batch, "x0")
    seen = noised(players, batch, x.detach(), levels, "matching")
    real, fake = players.teacher(seen, "x0"), players.critic(seen, "x0")
    h = curvature(density_ratio(players, seen, low, high))
    return inject(x, (like(h, x) * dm_gradient(x, real, fake)).detach()) / x[0].numel()
