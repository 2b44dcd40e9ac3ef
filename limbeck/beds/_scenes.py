"""Beds of scenes: coloured blobs in closed form, and exact fields of what is seen of a few of them.

Shapes: N points, K blobs or modes, B rows, D coordinates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.beds._mixture import Mixture
from limbeck.rng import derive

__all__ = ["Blobs", "Round", "seeded"]


class Blobs(nn.Module):
    """A field of round blobs: both blocks of a radiance field at once, in closed form.

    density(p) = sum_k d_k exp(-|p - c_k|^2 / (2 s_k^2)) + floor, colour the mean of the blobs', weighted by density

    Args:
        centres: (K, 3).
        sizes: (K,) s.
        densities: (K,) d, per unit of length.
        colours: (K, 3) inside (0, 1).
        floor: the density of empty space.

    Example:
        >>> one = Blobs(torch.zeros(1, 3), torch.ones(1), torch.ones(1), torch.full((1, 3), 0.5), floor=0.0)
        >>> one(torch.zeros(1, 3))
        tensor([[0., 0., 0., 0.]])
    """

    def __init__(self, centres: Tensor, sizes: Tensor, densities: Tensor, colours: Tensor, floor: float = 1e-2) -> None:
        super().__init__()
        self.centres, self.sizes, self.densities, self.colours = centres, sizes, densities, colours
        self.floor = floor

    def forward(self, points: Tensor) -> Tensor:
        """(N, 3) to (N, 4): the logarithm of density and the logits of colour."""
        centres, sizes, densities, colours = (v.to(points) for v in self._blobs())
        far_NK = (points[:, None] - centres).square().sum(-1)
        each_NK = densities * torch.exp(-0.5 * far_NK / sizes.square())
        colour = (each_NK + 1e-6) @ colours / (each_NK + 1e-6).sum(1, keepdim=True)
        return torch.cat(((each_NK.sum(1, keepdim=True) + self.floor).log(), colour.logit()), 1)

    def _blobs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.centres, self.sizes, self.densities, self.colours


class Round(Mixture):
    """A mixture of round Gaussians of one size, in any number of dimensions: no matrix of D x D is made.

    Args:
        weights: (K,) the mass of each mode, up to a factor.
        means: (K, D).
        std: the standard deviation of all.

    Example:
        >>> one = Round(torch.ones(1), torch.ones(1, 3), 1.0)
        >>> one.posterior(torch.zeros(1, 3), 0.0, 1.0)[0]
        tensor([[1., 1., 1.]])
    """

    def __init__(self, weights: Tensor, means: Tensor, std: float) -> None:
        self.weights, self.means, self.std = weights.double() / weights.double().sum(), means.double(), std

    def posterior(self, x: Tensor, a: Tensor | float, s: Tensor | float) -> tuple[Tensor, Tensor]:
        """What data and noise are expected behind a noised sample, (B, D) each (see `Mixture.posterior`)."""
        a_B1, s_B1 = (torch.as_tensor(v, dtype=x.dtype, device=x.device).reshape(-1, 1) for v in (a, s))
        weights, means = self.weights.to(x), self.means.to(x)
        var_B1 = a_B1.square() * self.std**2 + s_B1.square()
        far_BK = x.square().sum(1, keepdim=True) - 2 * a_B1 * (x @ means.T) + a_B1.square() * means.square().sum(1)
        centre = (weights.log() - 0.5 * far_BK / var_B1).softmax(1) @ means
        pull = (x - a_B1 * centre) / var_B1
        return centre + a_B1 * self.std**2 * pull, s_B1 * pull


def seeded(key: str, seed: int, build: Any) -> nn.Module:
    """Build a net whose initial weights are a function of the seed alone.

    Args:
        key: what is built.
        seed: any integer.
        build: a function of nothing.

    Returns:
        The net.

    Example:
        >>> a, b = (seeded("linear", 1, lambda: nn.Linear(1, 1)) for _ in range(2))
        >>> bool((a.weight == b.weight).all())
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(key, seed))
        return build()  # type: ignore[no-any-return]
