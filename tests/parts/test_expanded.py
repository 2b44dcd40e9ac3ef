"""The expansion of f-divergences against quadrature and finite differences on Gaussians."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limbeck.beds._mixture import Mixture
from limbeck.part import Part
from limbeck.parts import curvature as c
from limbeck.parts.expanded import expanded_gap
from limbeck.parts.fisher import identity_gap

F = {
    "reverse kl": (c.reverse_kl(), lambda r: -r.log()),
    "forward kl": (c.forward_kl(), lambda r: r * r.log()),
    "jeffreys": (c.jeffreys(), lambda r: (r - 1) * r.log()),
    "jensen-shannon": (c.jensen_shannon(), lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log()),
    "hellinger": (c.squared_hellinger(), lambda r: 2 * (r.sqrt() - 1) ** 2),
    "softened": (c.softened_reverse_kl(), lambda r: (r + 1) * ((r + 1) / (2 * r)).log()),
    "pearson": (c.pearson(), lambda r: (r - 1) ** 2 / 2),
}
P = Mixture(torch.ones(1), torch.zeros(1, 1), 1.0)
GRID = torch.linspace(-12, 12, 4001, dtype=torch.float64)
MEAN, STD, T = 0.5, 0.8, 0.4


def gaussian(mean: float, std: float) -> Mixture:
    return Mixture(torch.ones(1), torch.tensor([[mean]], dtype=torch.float64), std)


def ratio(q: Mixture, x: Tensor, t: float) -> Tensor:
    return (P.log_density(x, 1 - t, t) - q.log_density(x, 1 - t, t)).exp()


def level(h: Part, q: Mixture, t: float) -> float:
    """E_q C(r) |mu_q - mu_p|^2 at one level, by quadrature."""
    x = (GRID * ((1 - t) + t))[:, None]
    d = q.posterior(x, 1 - t, t)[0] - P.posterior(x, 1 - t, t)[0]
    value = q.log_density(x, 1 - t, t).exp() * h(ratio(q, x, t)) * d.square().sum(1)
    return float(torch.trapezoid(value, x[:, 0]))


@pytest.mark.parametrize("name", F)
def test_the_expansion_integrates_to_the_divergence(name: str) -> None:
    # s_q - s_p = (mu_q - mu_p) / sigma^2, so that D_f = 1/2 int E C |mu_q - mu_p|^2 d(sigma^2) / sigma^4
    h, f = F[name]
    q = gaussian(MEAN, STD)
    density = q.log_density(GRID[:, None]).exp()
    exact = float(torch.trapezoid(density * f(ratio(q, GRID[:, None], 0.0)), GRID))
    logs = torch.linspace(-12, 9, 180, dtype=torch.float64)  # of sigma^2
    sigma = (logs / 2).exp()
    at = torch.tensor([level(h, q, float(s / (1 + s))) for s in sigma], dtype=torch.float64)
    assert float(torch.trapezoid(0.5 * at / sigma**2, logs)) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("name", F)
def test_its_gradient_is_that_of_the_integrand(name: str) -> None:
    h, _ = F[name]
    mean, std = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (MEAN, STD))
    # a product rule in z and e takes the mean; fields know nothing of the weights
    nodes, weights = (torch.from_numpy(v) for v in gauss_hermite(60))
    z, e = nodes.repeat_interleave(60)[:, None], nodes.repeat(60)[:, None]
    mass = (weights[:, None] * weights).flatten()
    q = gaussian(MEAN, STD)
    x = mean + std * z
    x_t = (1 - T) * x + T * e
    real, fake = (m.posterior(x_t, 1 - T, T)[0] for m in (P, q))
    loss = (mass * expanded_gap(x, real, fake, ratio(q, x_t, T), h)).sum()
    found = [float(g) for g in torch.autograd.grad(loss, (mean, std))]
    d = 1e-4
    exact = [
        (level(h, gaussian(MEAN + d, STD), T) - level(h, gaussian(MEAN - d, STD), T)) / (2 * d),
        (level(h, gaussian(MEAN, STD + d), T) - level(h, gaussian(MEAN, STD - d), T)) / (2 * d),
    ]
    assert found == pytest.approx(exact, rel=1e-4, abs=1e-6)


def gauss_hermite(n: int):
    """Nodes and weights of the standard normal."""
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return nodes, weights / weights.sum()


def test_the_reverse_divergence_is_the_score_identity_at_one_half() -> None:
    x, real, fake = torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    r = torch.rand(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = expanded_gap(x, real, fake, r, c.reverse_kl())
    torch.testing.assert_close(found, 2 * identity_gap(x, real, fake, 0.5))
