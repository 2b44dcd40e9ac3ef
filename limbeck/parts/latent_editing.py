"""Editing of scenes whose pictures are latents: a refinement between renderer and teacher, and a region to stay in.

A picture of latents depends on its whole neighbourhood, so what a volume of latents renders is not quite what an
encoder gives. The player `refiner` closes the gap: what counts as seen of the scene is what it makes of the rendering.

Shapes: B rows, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.score_direction import delta_denoising
from limbeck.players import Player, Players
from limbeck.roles import frozen

__all__ = [
    "Refiner",
    "latent_fitting",
    "outside_matching",
    "refined",
    "refined_view",
    "refinement",
    "reprompted",
    "whole_region",
]


class Refiner(nn.Module):
    """Residual blocks of convolutions over pictures; the identity at the start.

    x <- x + W2 silu(W1 x), block by block, with W2 = 0 at first

    Args:
        channels: C.
        width: channels inside a block.
        blocks: how many.

    Example:
        >>> x = torch.randn(2, 4, 8, 8)
        >>> bool((Refiner(4, 16, 2)({"x": x}, frozenset({"x0"}))["x0"] == x).all())
        True

    Source: Park et al., arXiv:2310.02712, the refinement layer.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            last = nn.Conv2d(width, channels, 3, padding=1)
            for weight in last.parameters():
                nn.init.zeros_(weight)
            self.blocks.append(nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), last))

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0" (B, C, H, W) on x."""
        x = batch["x"]
        for block in self.blocks:
            x = x + block(x)
        return {"x0": x}


@part
def refinement(players: Players, batch: Batch, *, width: int = 64, blocks: int = 2) -> Refiner:
    """Build the refinement between renderer and teacher.

    F = residual blocks, the identity at the start

    Args:
        players: not asked.
        batch: rows whose column x (B, C, H, W) has the channels of a latent.
        width: channels inside a block.
        blocks: how many.

    Returns:
        The net.

    Source: Park et al., arXiv:2310.02712, the refinement layer.
    """
    return Refiner(batch.x.shape[1], width, blocks).to(batch.x)


def refined_view(players: Players, batch: Batch) -> Tensor:
    """What counts as seen of the scene in each row: F(g(theta, camera)), (B, C, H, W)."""
    return players.refiner(batch.with_(x=players.scene(batch, "x0")), "x0")  # type: ignore[no-any-return]


@part
def refined(players: Players, batch: Batch, *, loss: Expr = delta_denoising()) -> Tensor:
    """Take a loss on the refined view of the scene instead of the bare one.

    loss(F(g(theta, camera)))

    Args:
        players: the scene and the refiner answer "x0"; more as the loss asks for.
        batch: as the loss takes it.
        loss: a loss part of the player `scene`.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `refiner`.

    Source: Park et al., arXiv:2310.02712, the editing of refined latents.
    """
    view = Player("refined scene", frozen(), answer=lambda rows, want: {w: refined_view(players, rows) for w in want})
    return loss(players.replaced(scene=view), batch)  # type: ignore[operator,no-any-return]


@part
def latent_fitting(players: Players, batch: Batch) -> Tensor:
    """Fit the scene to encoded pictures, before and after its refinement.

    mean (F(g) - x)^2 + mean (g - x)^2

    Args:
        players: the scene and the refiner answer "x0".
        batch: rows with a camera, and in x what an encoder makes of the picture seen from there.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `refiner`.

    Source: Park et al., arXiv:2310.02712, the reconstruction of latents.
    """
    bare, seen = players.scene(batch, "x0"), refined_view(players, batch)
    return ((seen - batch.x).square() + (bare - batch.x).square()).flatten(1).mean(1)


@part
def outside_matching(players: Players, batch: Batch) -> Tensor:
    """Keep what is seen outside the region as it is in the source.

    |(1 - M) (x_scene - x)|^2

    Args:
        players: the scene answers "x0".
        batch: rows with the source in x and the mask `region` in its shape.

    Returns:
        (B,).

    Raises:
        UnknownName: the rows have no region.

    Source: Park et al., arXiv:2310.02712, the regulariser outside the mask.
    """
    return ((1 - batch.region) * (players.scene(batch, "x0") - batch.x)).square().flatten(1).sum(1)


@part
def reprompted(players: Players, batch: Batch) -> Batch:
    """Put the prompt to reach in place of the source's, for directions that know no source.

    y <- target

    Args:
        players: not asked.
        batch: rows with y and target.

    Returns:
        The batch.

    Raises:
        UnknownName: the rows have no target.
    """
    return batch.with_(y=batch.target)


@part
def whole_region(players: Players, batch: Batch) -> Batch:
    """Let everything change: the region becomes the whole picture.

    M <- 1

    Args:
        players: not asked.
        batch: rows with a region.

    Returns:
        The batch.

    Raises:
        UnknownName: the rows have no region.
    """
    return batch.with_(region=torch.ones_like(batch.region))
