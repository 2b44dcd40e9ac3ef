"""Mixtures of Gaussians, exactly: densities, fields and flow maps at any level of noise.

Noised data: x_t = a x0 + s e with e ~ N(0, I), where a and s (alpha, sigma) are given per row.

Shapes: B rows, K modes, D coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from functools import cached_property
from typing import Any

import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from limbeck.errors import BadValue

__all__ = ["ExactField", "Mixture"]

Level = Tensor | float


class Mixture:
    """A mixture of Gaussians in float64; answers come in the type of what is asked.

    Args:
        weights: (K,) the mass of each mode, up to a factor.
        means: (K, D).
        cov: one standard deviation for all; (K,) one a mode; or (K, D, D) covariances.

    Raises:
        BadValue: shapes that do not fit, or a covariance that is not positive definite.

    Example:
        >>> one = Mixture(torch.ones(1), torch.zeros(1, 2), 1.0)
        >>> round(float(one.log_density(torch.zeros(1, 2))), 4)
        -1.8379
    """

    def __init__(self, weights: Tensor, means: Tensor, cov: Tensor | float) -> None:
        self.weights = weights.double() / weights.double().sum()
        self.means = means.double()
        k, d = means.shape
        full = torch.as_tensor(cov, dtype=torch.float64)
        if full.ndim < 2:
            full = full.square().expand(k)[:, None, None] * torch.eye(d, dtype=torch.float64)
        if weights.shape != (k,) or full.shape != (k, d, d):
            raise BadValue(f"a mixture of {k} modes in {d} dimensions got weights {tuple(weights.shape)}, cov {cov!r}")
        self.spread, self.axes = torch.linalg.eigh(full)  # (K, D) variances along the columns of (K, D, D)
        if not (self.spread > 0).all():
            raise BadValue("a covariance of the mixture is not positive definite")

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean (D,) and covariance (D, D) of the whole.

        Example:
            >>> two = Mixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), 1.0)
            >>> [m.item() for m in two.moments]
            [0.0, 2.0]
        """
        mean = self.weights @ self.means
        centred = self.means - mean
        within = torch.einsum("k,kde,ke,kfe->df", self.weights, self.axes, self.spread, self.axes)
        return mean, within + torch.einsum("k,kd,ke->de", self.weights, centred, centred)

    def sample(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draw from the mixture.

        Args:
            n: the number of samples.
            seed: the seed of the draw.

        Returns:
            (n, D) float32 samples and (n,) int64 modes they come from.

        Example:
            >>> one = Mixture(torch.ones(1), torch.ones(1, 2), 1.0)
            >>> one.sample(5, seed=0)[0].shape
            torch.Size([5, 2])
        """
        rng = torch.Generator().manual_seed(seed)
        mode = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        z = torch.randn(n, self.means.shape[1], dtype=torch.float64, generator=rng)
        x = self.means[mode] + torch.einsum("ndf,nf->nd", self.axes[mode], z * self.spread[mode].sqrt())
        return x.float(), mode

    def among(self, modes_BK: Tensor) -> Mixture:
        """The mixture in which row b of whatever is asked may lie in the modes (B, K) alone; their weights sum to 1.

        Example:
            >>> two = Mixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), 1.0)
            >>> two.among(torch.tensor([[False, True]])).posterior(torch.zeros(1, 1), 0.0, 1.0)[0]
            tensor([[1.]])
        """
        chosen = copy(self)
        weights_BK = self.weights * modes_BK
        chosen.weights = weights_BK / weights_BK.sum(1, keepdim=True)
        return chosen

    def _modes(self, x: Tensor, a: Level, s: Level) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Per mode: log joint density (B, K), axes (K, D, D), x along them, its variances (B, K, D), a, s (B, 1, 1)."""
        a_B11, s_B11 = (torch.as_tensor(v, dtype=x.dtype, device=x.device).reshape(-1, 1, 1) for v in (a, s))
        weights, means, spread, axes = (v.to(x) for v in (self.weights, self.means, self.spread, self.axes))
        y_BKD = torch.einsum("kde,bkd->bke", axes, x[:, None] - a_B11 * means)
        var_BKD = a_B11.square() * spread + s_B11.square()
        log_BK = weights.log() - 0.5 * (y_BKD.square() / var_BKD + (2 * math.pi * var_BKD).log()).sum(2)
        return log_BK, axes, y_BKD, var_BKD, a_B11, s_B11

    def log_density(self, x: Tensor, a: Level = 1.0, s: Level = 0.0) -> Tensor:
        """The log density of noised data.

        log sum_k w_k N(x; a m_k, a^2 C_k + s^2 I)

        Args:
            x: (B, D).
            a: (B,) or one number.
            s: (B,) or one number.

        Returns:
            (B,).
        """
        return self._modes(x, a, s)[0].logsumexp(1)

    def posterior(self, x: Tensor, a: Level, s: Level) -> tuple[Tensor, Tensor]:
        """What data and noise are expected behind a noised sample; both hold at a = 0 and at s = 0.

        E[x0 | x] = sum_k r_k (m_k + a C_k V_k^-1 (x - a m_k)),  E[e | x] = s sum_k r_k V_k^-1 (x - a m_k),
        with V_k = a^2 C_k + s^2 I and r_k the probability of mode k given x

        Args:
            x: (B, D).
            a: (B,) or one number.
            s: (B,) or one number.

        Returns:
            x0 (B, D) and eps (B, D).

        Example:
            >>> one = Mixture(torch.ones(1), torch.ones(1, 2), 1.0)
            >>> one.posterior(torch.zeros(1, 2), 0.0, 1.0)[0]
            tensor([[1., 1.]])

        Source: Efron, "Tweedie's formula and selection bias", JASA 106 (2011), for each mode.
        """
        log_BK, axes, y_BKD, var_BKD, a_B11, s_B11 = self._modes(x, a, s)
        r_BK, pull_BKD = log_BK.softmax(1), y_BKD / var_BKD
        back = torch.einsum("bk,kde,bke->bd", r_BK, axes, a_B11 * self.spread.to(x) * pull_BKD)
        eps = torch.einsum("bk,kde,bke->bd", r_BK, axes, s_B11 * pull_BKD)
        return r_BK @ self.means.to(x) + back, eps

    def score(self, x: Tensor, a: Level = 1.0, s: Level = 0.0) -> Tensor:
        """The gradient of the log density of noised data, (B, D).

        Example:
            >>> one = Mixture(torch.ones(1), torch.ones(1, 2), 1.0)
            >>> one.score(torch.zeros(1, 2))
            tensor([[1., 1.]])
        """
        log_BK, axes, y_BKD, var_BKD, _, _ = self._modes(x, a, s)
        return -torch.einsum("bk,kde,bke->bd", log_BK.softmax(1), axes, y_BKD / var_BKD)

    def velocity(self, x: Tensor, t: Level) -> Tensor:
        """The field of the rectified-flow path, a = 1 - t and s = t: E[e - x0 | x_t], (B, D).

        Source: Liu et al., "Flow Straight and Fast", arXiv:2209.03003, with time reversed.
        """
        x0, eps = self.posterior(x, 1 - t, t)
        return eps - x0

    def flow_map(self, x: Tensor, t: Tensor, s: Tensor, tol: float = 1e-10) -> Tensor:
        """Carry points along the probability flow from level t to level s.

        dx/dr = v(x, r), from r = t to r = s, on the rectified-flow path

        Args:
            x: (B, D) points at level t.
            t: (B,) levels to start from.
            s: (B,) levels to reach.
            tol: the error per step that the solver (Dormand and Prince, order 8) may make.

        Returns:
            (B, D), in the type of x.

        Source: Prince and Dormand, "High order embedded Runge-Kutta formulae", 1981, for the solver.
        """
        t, s = t.double().cpu(), s.double().cpu()  # SciPy's solver works there
        shape = x.shape

        def slope(u: float, flat: Any) -> Any:
            r = t + (s - t) * u
            return ((s - t)[:, None] * self.velocity(torch.from_numpy(flat).view(shape), r)).flatten().numpy()

        start = x.detach().double().cpu().flatten().numpy()
        run = solve_ivp(slope, (0.0, 1.0), start, method="DOP853", rtol=tol, atol=tol)
        return torch.from_numpy(run.y[:, -1].copy()).view(shape).to(x)


class ExactField(nn.Module):
    """A mixture as a field net on the rectified-flow path x_t = (1 - t) x0 + t e.

    Args:
        mixture: the data, as this field believes it to be.
        labels: (K,) the class of each mode, from 0; none for an unconditional field. y = `classes` is no class.

    Example:
        >>> field = ExactField(Mixture(torch.ones(1), torch.ones(1, 2), 1.0))
        >>> field({"x": torch.zeros(1, 2), "t": torch.ones(1)}, frozenset({"x0"}))["x0"]
        tensor([[1., 1.]])
    """

    def __init__(self, mixture: Mixture, labels: Tensor | None = None) -> None:
        super().__init__()
        self.mixture, self.labels = mixture, labels
        self.classes = 0 if labels is None else int(labels.max()) + 1

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0", "eps", "velocity", "score", "log_density" on x (B, D), t, y (B,); "flow_map" also on s (B,)."""
        x, t, mixture = batch["x"], batch["t"], self.mixture
        if self.labels is not None and "y" in batch:
            y_B1, labels = batch["y"][:, None], self.labels.to(x.device)
            mixture = mixture.among(((labels == y_B1) | (y_B1 == self.classes)).cpu())
        asked = {
            "score": lambda: mixture.score(x, 1 - t, t),
            "log_density": lambda: mixture.log_density(x, 1 - t, t),
            "flow_map": lambda: mixture.flow_map(x, t, batch["s"]),
        }
        out: dict[str, Any] = {name: answer() for name, answer in asked.items() if name in want}
        if want & {"x0", "eps", "velocity"}:
            x0, eps = mixture.posterior(x, 1 - t, t)
            out |= {"x0": x0, "eps": eps, "velocity": eps - x0}
        return out
