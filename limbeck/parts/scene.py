"""Scenes: what learns by being looked at, and small differentiable renderers in plain PyTorch.

A scene is a net that answers "x0" (or "sample", the same) with what one sees of it in a row: column `camera` (B,) says
from where, `particle` (B,) which of the several guesses it holds, `y` (B,) under which prompt. A missing column is 0.
Projection is orthographic: the cube [-1, 1]^3 fills the picture, a camera is a rotation with the rows right, up, ahead.

Shapes: B rows, P particles, N splats or samples along a ray, V cameras, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.players import Players
from limbeck.rng import Rng

__all__ = [
    "Particles",
    "Splats",
    "composite",
    "particle_views",
    "particles",
    "pixel_grid",
    "rendered",
    "ring_cameras",
    "seen_column",
]

SEEN = frozenset({"x0", "sample"})


def seen_column(batch: Mapping[str, Any], name: str, device: torch.device) -> Tensor:
    """What a row says of camera, particle or prompt: (B,) int64; zeros where it says nothing.

    Example:
        >>> seen_column({"x": torch.zeros(2, 3)}, "camera", torch.device("cpu"))
        tensor([0, 0])
    """
    if name in batch:
        return batch[name]  # type: ignore[no-any-return]
    return torch.zeros(len(next(iter(batch.values()))), dtype=torch.int64, device=device)


def ring_cameras(count: int, elevation: float = 0.4) -> Tensor:
    """Cameras that look at the origin from a ring around the vertical axis.

    Args:
        count: V, evenly spread.
        elevation: of all of them, in radians.

    Returns:
        (V, 3, 3) rotations; the first, at elevation 0, looks along the third axis.

    Example:
        >>> ring_cameras(4, 0.0)[0]
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    turn = torch.arange(count) * (2 * math.pi / count)
    zero, one = torch.zeros(count), torch.ones(count)
    rise = torch.full((count,), elevation)
    around = torch.stack((turn.cos(), zero, turn.sin(), zero, one, zero, -turn.sin(), zero, turn.cos()), 1)
    above = torch.stack((one, zero, zero, zero, rise.cos(), rise.sin(), zero, -rise.sin(), rise.cos()), 1)
    return above.view(-1, 3, 3) @ around.view(-1, 3, 3)


def pixel_grid(side: int) -> Tensor:
    """The centres of the pixels of a square picture, (side^2, 2) in [-1, 1], row by row from the top left.

    Example:
        >>> pixel_grid(2).tolist()
        [[-0.5, 0.5], [0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]]
    """
    axis = (2 * torch.arange(side) + 1) / side - 1
    return torch.stack((axis.repeat(side), -axis.repeat_interleave(side)), 1)


def composite(alpha: Tensor, colour: Tensor) -> tuple[Tensor, Tensor]:
    """Blend what lies along a ray, from front to back.

    C = sum_i w_i c_i, w_i = alpha_i prod_{j<i} (1 - alpha_j); what is left, prod_j (1 - alpha_j), and the w_i sum to 1

    Args:
        alpha: (..., N) opacities in [0, 1], the nearest first.
        colour: (..., N, C) or, the same for many rays, anything that broadcasts with it.

    Returns:
        The colour (..., C), black behind, and the light that is left (...).

    Example:
        >>> composite(torch.tensor([0.5, 1.0]), torch.tensor([[1.0], [3.0]]))
        (tensor([2.]), tensor(0.))

    Source: Mildenhall et al., arXiv:2003.08934, volume rendering.
    """
    through = torch.cumprod(1 - alpha, -1)
    before = torch.cat((torch.ones_like(through[..., :1]), through[..., :-1]), -1)
    return ((alpha * before)[..., None] * colour).sum(-2), through[..., -1]


class Splats(nn.Module):
    """Several clouds of round Gaussians with colour and opacity, seen by cameras as pictures (C, H, W) on black.

    alpha_i(u) = o_i exp(-|u - m_i|^2 / (2 s_i^2)), blended in the order of their depth

    Weights: `place` (P, N, 3); `log_size` (P, N); `colour` (P, N, C), before a sigmoid where it is a colour and not a
    latent; `opacity` (P, N) before a sigmoid.

    Args:
        cameras: (V, 3, 3) rotations.
        place: where the splats start.
        size: their standard deviation at the start.
        side: H = W.
        latents: C, where pictures have as many channels without bounds instead of three colours; 0 for colours.

    Example:
        >>> cloud = Splats(ring_cameras(4), torch.zeros(2, 1, 3), 0.3, 8)
        >>> cloud({"camera": torch.tensor([0, 3, 1])}, frozenset({"x0"}))["x0"].shape
        torch.Size([3, 3, 8, 8])

    Source: Kerbl et al., arXiv:2308.04079, for round Gaussians under orthographic projection.
    """

    cameras: Tensor
    pixels: Tensor

    def __init__(self, cameras: Tensor, place: Tensor, size: float, side: int, latents: int = 0) -> None:
        super().__init__()
        self.side, self.particles, self.latents = side, len(place), latents
        self.place = nn.Parameter(place.clone())
        self.log_size = nn.Parameter(torch.full(place.shape[:2], math.log(size)))
        self.colour = nn.Parameter(torch.zeros(*place.shape[:2], latents or 3))
        self.opacity = nn.Parameter(torch.zeros(place.shape[:2]))
        self.register_buffer("cameras", cameras, persistent=False)
        self.register_buffer("pixels", pixel_grid(side), persistent=False)

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0" and "sample" (B, C, H, W) on camera, particle (B,)."""
        camera, which = (seen_column(batch, n, self.place.device) for n in ("camera", "particle"))
        at_BN3 = self.place[which] @ self.cameras[camera].mT
        near = at_BN3[..., 2].argsort(1)
        at_BN2, size_BN, opacity_BN, colour_BNC = (
            v.take_along_dim(near[..., None] if v.ndim == 3 else near, 1)
            for v in (at_BN3[..., :2], self.log_size[which].exp(), self.opacity[which], self.colour[which])
        )
        far_BSN = (self.pixels[None, :, None] - at_BN2[:, None]).square().sum(-1)
        alpha_BSN = opacity_BN.sigmoid()[:, None] * torch.exp(-0.5 * far_BSN / size_BN[:, None].square())
        colour_BNC = colour_BNC if self.latents else colour_BNC.sigmoid()
        shown = composite(alpha_BSN, colour_BNC[:, None])[0].mT.unflatten(-1, (self.side, self.side))
        return dict.fromkeys(want & SEEN, shown)


class Particles(nn.Module):
    """Data that are optimised themselves, several for each prompt: scenes whose renderer is the identity.

    x = theta_yi, or limit tanh(theta_yi / limit) where data have bounds, as pixels do

    Args:
        value: (C, P, ...) where theta starts, for C prompts.
        limit: the bound; 0 for none.

    Example:
        >>> two = Particles(torch.tensor([[[1.0], [2.0]]]))
        >>> two({"particle": torch.tensor([1, 0])}, frozenset({"x0"}))["x0"].tolist()
        [[2.0], [1.0]]
    """

    def __init__(self, value: Tensor, limit: float = 0.0) -> None:
        super().__init__()
        self.value, self.particles, self.limit = nn.Parameter(value), value.shape[1], limit

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0" and "sample" (B, ...) on y, particle (B,)."""
        y, which = (seen_column(batch, n, self.value.device) for n in ("y", "particle"))
        x = self.value[y, which]
        return dict.fromkeys(want & SEEN, self.limit * torch.tanh(x / self.limit) if self.limit else x)


@part
def particles(players: Players, batch: Batch, *, count: int = 1, spread: float = 1.0, limit: float = 0.0) -> Particles:
    """Build data that are optimised themselves, from noise.

    theta_yi ~ N(0, spread^2 I)

    Args:
        players: the teacher says for how many prompts; one where it has no classes.
        batch: rows whose column x has the shape of a datum.
        count: how many for each prompt.
        spread: their standard deviation at the start.
        limit: the bound of data that have one, which they then keep to; 0 for none.

    Returns:
        The net.

    Raises:
        BadValue: fewer than one.

    Source: Wang et al., arXiv:2305.16213, particles.
    """
    if count < 1:
        raise BadValue(f"particles needs a count of at least 1, got {count}")
    prompts, shape = max(1, int(getattr(players.teacher, "classes", 0) or 0)), batch.x.shape[1:]
    noise = Rng(("particles", batch.rng.key), torch.arange(prompts)).normal("x", count, *shape)
    return Particles((spread * noise).to(batch.x), limit)


@part
def particle_views(players: Players, batch: Batch) -> Batch:
    """Look at one of the scene's particles in each row.

    i ~ U{1 .. P}

    Args:
        players: the scene has `particles`, P.
        batch: the rows.

    Returns:
        The batch with the column `particle`.

    Source: Wang et al., arXiv:2305.16213, the choice of a particle.
    """
    return batch.with_(particle=batch.rng.integers("particle", players.scene.particles).view(-1))


@part
def rendered(players: Players, batch: Batch) -> Tensor:
    """Sample the scene: what is seen of a particle at random, from the camera and under the prompt of the row.

    g(theta_i, camera), i ~ U{1 .. P}

    Args:
        players: the scene answers "x0" and has `particles`.
        batch: the rows.

    Returns:
        (B, ...).
    """
    return players.scene(particle_views()(players, batch), "x0")  # type: ignore[no-any-return]
