"""Adversaries that compare: a sample need not look real, but as real as the one that it is paired with.

Shapes: B rows, D coordinates; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.general_multistep import generalised
from limbeck.parts.plan import planned_start
from limbeck.players import Players

__all__ = ["Judge", "judge", "paired_discriminator", "paired_generator"]

THREE = generalised()


class Judge(nn.Module):
    """One number a row: high for real.

    Args:
        dim: D.
        width: hidden units of both layers.

    Example:
        >>> Judge(3, 8)({"x": torch.zeros(2, 3)}, frozenset({"logit"}))["logit"].shape
        torch.Size([2])
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "logit" (B,) on a column x (B, ...)."""
        return {"logit": self.net(batch["x"].flatten(1)).squeeze(1)}


@part
def judge(players: Players, batch: Batch, *, width: int = 64) -> Judge:
    """Build a discriminator of data themselves, by a perceptron.

    D(x) = W3 silu(W2 silu(W1 x))

    Args:
        players: not asked.
        batch: some rows of data.
        width: hidden units.

    Returns:
        The module.
    """
    return Judge(batch.x[0].numel(), width).to(batch.device)


def _ends(players: Players, batch: Batch, solver: Expr) -> Tensor:
    return solver(players, planned_start(players, batch, batch.x))[-1]  # type: ignore[no-any-return, operator]


@part
def paired_generator(players: Players, batch: Batch, *, solver: Expr = THREE) -> Tensor:
    """Move ends to where they look as real as those of the teacher on the same noise.

    softplus(-(D(x_S) - D(x_T)))

    Args:
        players: `critic` answers "logit" on a column x; those that the solver asks, and `solver`.
        batch: noise in x, the teacher's end in `end`.
        solver: a solver part.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `critic`.

    Source: Huang et al., arXiv:2501.05441; with solvers: Oganov et al., arXiv:2510.17699.
    """
    fake, real = (players.critic(batch.with_(x=x), "logit") for x in (_ends(players, batch, solver), batch.end))
    return softplus(real - fake)


@part
def paired_discriminator(players: Players, batch: Batch, *, solver: Expr = THREE, penalty: float = 0.2) -> Tensor:
    """Teach the discriminator which of two ends is the teacher's, and to stay flat at both.

    softplus(-(D(x_T) - D(x_S))) + g / 2 (|dD/dx(x_T)|^2 + |dD/dx(x_S)|^2)

    Args:
        players: `critic` answers "logit" on a column x; those that the solver asks, and `solver`.
        batch: noise in x, the teacher's end in `end`.
        solver: a solver part.
        penalty: g.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `critic`.

    Source: Huang et al., arXiv:2501.05441, the relativistic loss and both penalties.
    """
    with torch.no_grad():
        made = _ends(players, batch, solver)
    logits, slopes = [], []
    for x in (batch.end, made):
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            logit = players.critic(batch.with_(x=at), "logit")
            slopes.append(torch.autograd.grad(logit.sum(), at, create_graph=True)[0].square().flatten(1).sum(1))
        logits.append(logit)
    return softplus(logits[1] - logits[0]) + penalty / 2 * (slopes[0] + slopes[1])
