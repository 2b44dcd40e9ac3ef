"""Curvatures of f-divergences and the ratio that they weigh, against integrals and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.beds._nets import fresh
from limbeck.part import Part
from limbeck.parts import curvature as c
from limbeck.parts.distribution import distribution_matching
from limbeck.parts.gan import discriminator_head
from limbeck.parts.optimizer import adamw, sgd
from limbeck.parts.ratio import f_matching, mean_ratio, ratio_drift, ratio_of
from limbeck.parts.states import noise_states, uniform_levels
from limbeck.players import Players, build
from limbeck.rng import Rng
from limbeck.roles import Role, built, frozen, learning

F: dict[str, tuple[Part, Callable[[np.ndarray], np.ndarray]]] = {
    "reverse kl": (c.reverse_kl(), lambda r: -np.log(r)),
    "forward kl": (c.forward_kl(), lambda r: r * np.log(r)),
    "jeffreys": (c.jeffreys(), lambda r: (r - 1) * np.log(r)),
    "jensen-shannon": (c.jensen_shannon(), lambda r: r * np.log(r) - (r + 1) * np.log((r + 1) / 2)),
    "hellinger": (c.squared_hellinger(), lambda r: 2 * (np.sqrt(r) - 1) ** 2),
    "softened": (c.softened_reverse_kl(), lambda r: (r + 1) * np.log((r + 1) / (2 * r))),
    "neyman": (c.neyman(), lambda r: (1 - r) ** 2 / (2 * r)),
    "pearson": (c.pearson(), lambda r: (r - 1) ** 2 / 2),
}
GRID = np.linspace(-14, 14, 40_001)
LEVELS = uniform_levels(low=0.1, high=0.9)


def normal(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def divergence(f: Callable[[np.ndarray], np.ndarray], mean: float, std: float) -> float:
    """D_f(N(0, 1) || N(mean, std^2)) by quadrature."""
    p, q = normal(GRID, 0, 1), normal(GRID, mean, std)
    return float(np.trapezoid(q * f(p / q), GRID))


@pytest.mark.parametrize("name", F)
def test_curvature_is_r_squared_times_the_second_derivative(name: str) -> None:
    h, f = F[name]
    r, d = np.linspace(0.2, 5.0, 25), 1e-4
    second = (f(r + d) - 2 * f(r) + f(r - d)) / d**2
    np.testing.assert_allclose(h(torch.tensor(r)).numpy(), r**2 * second, rtol=1e-4, atol=1e-5)
    assert float(f(np.array([1.0]))[0]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", F)
def test_weighed_score_difference_is_the_gradient_of_the_divergence(name: str) -> None:
    # d D_f / d(mean, std) = E_q h(r) (s_q - s_p) d x / d(mean, std), x = mean + std z
    h, f = F[name]
    mean, std, d = 0.4, 0.9, 1e-4
    p, q = normal(GRID, 0, 1), normal(GRID, mean, std)
    pull = q * h(torch.tensor(p / q)).numpy() * (-(GRID - mean) / std**2 + GRID)
    found = [float(np.trapezoid(pull, GRID)), float(np.trapezoid(pull * (GRID - mean) / std, GRID))]
    exact = [
        (divergence(f, mean + d, std) - divergence(f, mean - d, std)) / (2 * d),
        (divergence(f, mean, std + d) - divergence(f, mean, std - d)) / (2 * d),
    ]
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-6)


class Ratio(nn.Module):
    """A head that knows the ratio of two exact fields; it reads the state from the features."""

    source = "log_density"

    def __init__(self, teacher: Mixture, t: float) -> None:
        super().__init__()
        self.teacher, self.t = teacher, t

    def forward(self, batch, want):
        own = batch["features"]
        return {"logit": self.teacher.log_density(batch["x"], 1 - batch["t"], batch["t"]) - own}


class Shift(nn.Module):
    """A generator x = z + mu with one weight."""

    def __init__(self, mu: Tensor) -> None:
        super().__init__()
        self.mu = nn.Parameter(mu.clone())

    def forward(self, batch, want):
        return {"x0": batch["x"] + self.mu}


def play(n: int, **roles: Role) -> tuple[Players, Batch]:
    """A shifted Gaussian against a centred one, with the exact critic and the exact ratio."""
    batch = Batch({"x": torch.zeros(n, 2)}, rng=Rng(("test",), torch.arange(n)))
    mu = torch.tensor([1.0, 0.5])
    teacher, own = Mixture(torch.ones(1), torch.zeros(1, 2), 1.0), Mixture(torch.ones(1), mu[None], 1.0)
    exact = {"student": learning(adamw()), "teacher": frozen(), "critic": frozen(), "head": frozen()}
    nets = {
        "student": Shift(mu),
        "teacher": ExactField(teacher),
        "critic": ExactField(own),
        "head": Ratio(teacher, 0.5),
    }
    players = build(exact | roles, nets, batch)
    players.turn("student", ("student", *roles))
    return players, noise_states()(players, batch)


def slope(loss: Part, players: Players, states: Batch) -> Tensor:
    players.student.module.zero_grad()
    loss.total(players, states.with_())["loss"].backward()
    return players.student.mu.grad.clone()


def test_equal_weights_are_plain_distribution_matching_to_the_bit() -> None:
    players, states = play(64)
    weighed = slope(f_matching(curvature=c.reverse_kl(), levels=LEVELS), players, states)
    assert torch.equal(weighed, slope(distribution_matching(levels=LEVELS), players, states))


def test_weights_that_add_up_pull_as_much_as_their_sum() -> None:
    players, states = play(1024)
    pull = {n: slope(f_matching(curvature=F[n][0], levels=LEVELS, low=0.0), players, states) for n in F}
    torch.testing.assert_close(pull["jeffreys"], pull["forward kl"] + pull["reverse kl"])
    torch.testing.assert_close(pull["reverse kl"], pull["jensen-shannon"] + pull["softened"])
    # a shift leaves samples where the teacher has few: covering divergences mind these less, seeking ones more
    assert pull["hellinger"].norm() < pull["reverse kl"].norm() < pull["neyman"].norm()


def test_a_ratio_is_clipped_and_divided_by_its_running_mean() -> None:
    assert ratio_of(torch.tensor([-99.0, math.log(2.0), 99.0]), 0.1, 20.0).tolist() == pytest.approx([0.1, 2.0, 20.0])
    players, states = play(64, usual=built(mean_ratio(bins=4), sgd(lr=1.0)))
    loss = f_matching(curvature=c.forward_kl(), levels=LEVELS)
    before = slope(loss, players, states)
    players.usual.height.data.fill_(2.0)
    torch.testing.assert_close(slope(loss, players, states), before / 2)


def test_the_running_mean_finds_the_mean_near_each_level() -> None:
    # the ratio is exact, so that its mean is 1 at every level, whatever the memory held before
    players, states = play(20_000, usual=built(mean_ratio(bins=4), sgd(lr=1.0)))
    players.usual.height.data.copy_(torch.tensor([3.0, 0.2, 1.0, 2.0]))
    height = players.usual.height
    for _ in range(60):
        height.grad = None
        loss = ratio_drift(levels=uniform_levels(low=0.3, high=1.0), low=1e-4, high=1e4)
        loss.total(players, states.with_())["loss"].backward()
        height.data -= height.grad
    assert float(height.detach()[0]) == 3.0  # no level fell there
    torch.testing.assert_close(height.detach()[1:], torch.ones(3), rtol=0.05, atol=0.0)


def test_nothing_flows_into_the_discriminator() -> None:
    batch = Batch({"x": torch.zeros(8, 2)}, rng=Rng(("test",), torch.arange(8)))
    roles = {"student": learning(adamw()), "teacher": frozen(), "critic": learning(adamw())}
    roles |= {"head": built(discriminator_head(width=8), adamw()), "usual": built(mean_ratio(), sgd(lr=0.1))}
    nets = {"student": fresh(0, 2), "teacher": fresh(1, 2), "critic": fresh(2, 2)}
    players = build(roles, nets, batch)
    players.turn("critic", ("critic", "head", "usual"))
    ratio_drift().total(players, noise_states()(players, batch))["loss"].backward()
    assert players.usual.height.grad is not None
    assert all(p.grad is None for name in ("critic", "head") for p in players[name].params)
