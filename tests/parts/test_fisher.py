"""The score identity loss against the exact Fisher divergence of Gaussians."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.parts.fisher import identity_gap, score_identity
from limbeck.parts.optimizer import adamw
from limbeck.parts.states import noise_states, uniform_levels
from limbeck.players import build
from limbeck.rng import Rng
from limbeck.roles import frozen, learning

MEAN, STD = 0.8, 1.5
TEACHER = Mixture(torch.ones(1), torch.zeros(1, 1), 1.0)


def fisher(mean: Tensor, std: Tensor, t: float) -> Tensor:
    """(t^2 / (1 - t))^2 E_q |s_q - s_p|^2 for q = N(mean, std^2), p = N(0, 1) after noising, in closed form."""
    a, s = 1 - t, t
    vq, vp = a**2 * std**2 + s**2, a**2 + s**2
    # s_p - s_q = (x - a mean) / vq - x / vp is linear in x ~ N(a mean, vq)
    slope, at_mean = 1 / vq - 1 / vp, -a * mean / vp
    return (s**2 / a) ** 2 * (at_mean**2 + slope**2 * vq)


def slopes(alpha: float, t: float, rows: int = 200_000) -> tuple[Tensor, Tensor]:
    """The gradient of the loss in (mean, std) by autograd, and that of the closed form."""
    mean, std = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (MEAN, STD))
    critic = Mixture(torch.ones(1), torch.tensor([[MEAN]]), STD)
    generator = torch.Generator().manual_seed(0)
    z, e = (torch.randn(rows, 1, dtype=torch.float64, generator=generator) for _ in range(2))
    z = torch.cat((z, -z))
    e = torch.cat((e, -e))
    x = mean + std * z
    x_t = (1 - t) * x + t * e
    real, fake = (m.posterior(x_t, 1 - t, t)[0] for m in (TEACHER, critic))
    loss = 2 * identity_gap(x, real, fake, alpha).mean()
    exact = fisher(mean, std, t)
    return torch.stack(torch.autograd.grad(loss, (mean, std))), torch.stack(torch.autograd.grad(exact, (mean, std)))


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_half_gives_the_gradient_of_the_exact_divergence(t: float) -> None:
    found, exact = slopes(0.5, t)
    torch.testing.assert_close(found, exact, rtol=0.02, atol=1e-4)


def test_other_shares_miss_it_on_either_side() -> None:
    over, exact = slopes(0.0, 0.5)
    under, _ = slopes(1.2, 0.5)
    assert (over > exact + 0.05).all() and (under < exact - 0.05).all()


def test_its_value_is_the_divergence_itself() -> None:
    # E <mu_real - mu_fake, mu_fake - x> = 0, so that the mean at alpha is (1 - alpha) |mu_real - mu_fake|^2
    z, e = torch.randn(2, 200_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    critic = Mixture(torch.ones(1), torch.tensor([[MEAN]]), STD)
    x = MEAN + STD * z
    real, fake = (m.posterior(0.5 * x + 0.5 * e, 0.5, 0.5)[0] for m in (TEACHER, critic))
    exact = fisher(torch.tensor(MEAN), torch.tensor(STD), 0.5)
    for alpha in (0.0, 0.5):
        assert float(identity_gap(x, real, fake, alpha).mean()) == pytest.approx(float((1 - alpha) * exact), rel=0.02)


class Affine(nn.Module):
    """A generator x = mu + exp(r) z."""

    def __init__(self, mean: float, log_std: float) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(log_std))

    def forward(self, batch, want):
        return {"x0": self.mean + self.log_std.exp() * batch["x"]}


def gradient(mean: float, log_std: float) -> Tensor:
    """The part's gradient in (mean, log std) with the exact critic of the student."""
    batch = Batch({"x": torch.zeros(4096, 1)}, rng=Rng(("test",), torch.arange(4096)))
    exact = Mixture(torch.ones(1), torch.tensor([[mean]]), float(torch.tensor(log_std).exp()))
    net = Affine(mean, log_std)
    players = build(
        {"student": learning(adamw()), "teacher": frozen(), "critic": frozen()},
        {"student": net, "teacher": ExactField(TEACHER), "critic": ExactField(exact)},
        batch,
    )
    players.turn("student", ("student",))
    loss = score_identity(levels=uniform_levels(low=0.1, high=0.9), alpha=0.5)
    loss.total(players, noise_states()(players, batch))["loss"].backward()
    return torch.stack((net.mean.grad, net.log_std.grad))


def test_the_part_descends_towards_the_teacher_and_rests_there() -> None:
    assert gradient(1.0, 0.0)[0] > 0.01 and gradient(-1.0, 0.0)[0] < -0.01
    assert gradient(0.0, 0.5)[1] > 0.01 and gradient(0.0, -0.5)[1] < -0.01
    assert gradient(0.0, 0.0).abs().max() < 1e-6
