"""Beds of scenes: coloured blobs in closed form, and exact fields of what is seen of a few of them.

Shapes: N points, K blobs or modes, B rows, D coordinates.
"""

from __future__ import annotations

import math
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

    It answers what a field is asked for: posterior, score, log density, and by them velocity and flow map. `moments`
    would be such a matrix, and `sample` needs its axes; they are not here.

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
        log_BK, a_B1, s_B1, var_B1 = self._round(x, a, s)
        centre = log_BK.softmax(1) @ self.means.to(x)
        pull = (x - a_B1 * centre) / var_B1
        return centre + a_B1 * self.std**2 * pull, s_B1 * pull

    def _round(self, x: Tensor, a: Tensor | float, s: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per mode the log joint density, (B, K), but for a constant of the row; a, s and the variance, (B, 1) each."""
        a_B1, s_B1 = (torch.as_tensor(v, dtype=x.dtype, device=x.device).reshape(-1, 1) for v in (a, s))
        weights, means = self.weights.to(x), self.means.to(x)
        var_B1 = a_B1.square() * self.std**2 + s_B1.square()
        far_BK = x.square().sum(1, keepdim=True) - 2 * a_B1 * (x @ means.T) + a_B1.square() * means.square().sum(1)
        return weights.log() - 0.5 * far_BK / var_B1, a_B1, s_B1, var_B1

    def log_density(self, x: Tensor, a: Tensor | float = 1.0, s: Tensor | float = 0.0) -> Tensor:
        """The log density of noised data, (B,) (see `Mixture.log_density`)."""
        log_BK, _, _, var_B1 = self._round(x, a, s)
        return log_BK.logsumexp(1) - 0.5 * x.shape[1] * (2 * math.pi * var_B1[:, 0]).log()

    def score(self, x: Tensor, a: Tensor | float = 1.0, s: Tensor | float = 0.0) -> Tensor:
        """The gradient of the log density of noised data, (B, D) (see `Mixture.score`)."""
        log_BK, a_B1, _, var_B1 = self._round(x, a, s)
        return (a_B1 * (log_BK.softmax(1) @ self.means.to(x)) - x) / var_B1


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
