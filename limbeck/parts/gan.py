"""A discriminator on the features of a field: real and generated samples are told apart under noise.

Shapes: B rows, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.states import karras_levels, noised
from limbeck.players import Players

__all__ = ["Head", "discriminator_head", "gan_discriminator", "gan_generator"]

ALL = karras_levels(low=0.0, high=1.0)


class Head(nn.Module):
    """One number a row from the features of a field: high for real.

    Args:
        features: D.
        width: hidden units.
        source: the field's answer that it reads, (B, D) or (B, D, ...), which is averaged over positions.

    Example:
        >>> Head(4, 8, "features")({"features": torch.ones(2, 4)}, frozenset({"logit"}))["logit"].shape
        torch.Size([2])

    Source: Yin et al., arXiv:2405.14867, the GAN loss.
    """

    def __init__(self, features: int, width: int, source: str) -> None:
        super().__init__()
        self.source = source
        self.net = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "logit" (B,) on the column `features`."""
        return {"logit": self.net(_pooled(batch["features"])).squeeze(1)}


def _pooled(features: Tensor) -> Tensor:
    """(B, D, ...) to (B, D)."""
    return features.flatten(2).mean(2) if features.ndim > 2 else features


@part
def discriminator_head(players: Players, batch: Batch, *, width: int = 128, source: str = "features") -> Head:
    """Build the head to the critic's features.

    D(x_t) = W2 silu(W1 layernorm(features(x_t)))

    Args:
        players: the critic answers `source` on columns x, t.
        batch: some rows of data.
        width: hidden units.
        source: "features", or "tap:<module>" for the output of a layer, such as the middle of a UNet.

    Returns:
        The module.

    Raises:
        UnknownName: there is no player `critic`, or it does not answer `source`.
    """
    with torch.no_grad():
        level = torch.full((batch.size,), 0.5, dtype=batch.x.dtype, device=batch.device)
        features = _pooled(players.critic(batch.with_(t=level), source))
    return Head(features.shape[1], width, source).to(features)


def _logit(players: Players, batch: Batch, x: Tensor, levels: Expr, name: str) -> Tensor:
    """How real samples look to the critic and the head under noise, (B,)."""
    seen = noised(players, batch, x, levels, name)
    return players.head(batch.with_(features=players.critic(seen, players.head.source)), "logit")


@part
def gan_discriminator(players: Players, batch: Batch, *, levels: Expr = ALL) -> Tensor:
    """Teach the critic's features and the head to tell generated from real.

    softplus(D(x_t)) + softplus(-D(real_t)), each at a level of its own

    Args:
        players: the student answers "x0", the critic the source of the head, the head "logit".
        batch: the student's states in x and t, data in `real`.
        levels: a level part for the noise.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `head`, or none `critic`.

    Source: Goodfellow et al., arXiv:1406.2661; under noise: Wang et al., arXiv:2206.02262.
    """
    fake = _logit(players, batch, players.student(batch, "x0").detach(), levels, "gan fake")
    real = _logit(players, batch, batch.real, levels, "gan real")
    return softplus(fake) + softplus(-real)


@part
def gan_generator(players: Players, batch: Batch, *, levels: Expr = ALL) -> Tensor:
    """Move the student's samples to where they look real: the loss that does not saturate.

    softplus(-D(x_t))

    Args:
        players: the student answers "x0", the critic the source of the head, the head "logit".
        batch: the student's states in x and t.
        levels: a level part for the noise.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `head`, or none `critic`.

    Source: Yin et al., arXiv:2405.14867, the GAN loss, in the non-saturating form of its code.
    """
    return softplus(-_logit(players, batch, players.student(batch, "x0"), levels, "gan fake"))
