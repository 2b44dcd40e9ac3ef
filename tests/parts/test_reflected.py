"""Reflected diffusion: long sums in NumPy, quadrature, simulated walks, SciPy's tests of laws and POT."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, norm
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.errors import BadData, BadValue, UnknownName
from limbeck.loop import Loop, Options
from limbeck.part import terms
from limbeck.parts.guidance import Guided
from limbeck.parts.optimizer import adam
from limbeck.parts.reflected import (
    falling_noise,
    reflect,
    reflected_flow,
    reflected_log_density,
    reflected_matching,
    reflected_sample,
    reflected_score,
    reflected_states,
)
from limbeck.players import Player, Players
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.rng import Rng
from limbeck.roles import frozen, learning
from limbeck.run import Run

NOISE = (0.01, 0.05, 0.2, 0.399, 0.4, 0.401, 0.7, 1.5, 5.0)
MIDDLES = (np.arange(4000) + 0.5) / 4000  # the midpoint rule is exact for reflected laws, whose images are periodic


def by_images(x: np.ndarray, x0: float, s: float) -> np.ndarray:
    k = 2 * np.arange(-40, 41)[:, None]
    return (norm.pdf(x, k + x0, s) + norm.pdf(x, k - x0, s)).sum(0)


def by_waves(x: np.ndarray, x0: float, s: float) -> np.ndarray:
    k = np.pi * np.arange(1, 1500)[:, None]
    return 1 + 2 * (np.exp(-0.5 * (k * s) ** 2) * np.cos(k * x) * np.cos(k * x0)).sum(0)


def distribution(x: np.ndarray, x0: float, s: float) -> np.ndarray:
    """The distribution function, by images."""
    k = 2 * np.arange(-40, 41)[:, None]
    return sum((norm.cdf(x, k + y, s) - norm.cdf(0, k + y, s)).sum(0) for y in (x0, -x0))


def density(x: np.ndarray, x0: float, s: float) -> np.ndarray:
    """Ours, of one coordinate."""
    at = torch.from_numpy(x)[:, None]
    return (
        reflected_log_density(at, torch.full_like(at, x0), torch.full((len(x),), s, dtype=torch.float64)).exp().numpy()
    )


def rows(n: int, x: Tensor, seed: int = 0) -> Batch:
    return Batch({"x": x}, rng=Rng(("reflected", seed), torch.arange(n)))


# -- the law ----------------------------------------------------------------------------------------------------------


@given(st.floats(-50, 50, allow_nan=False))
def test_walls_give_a_point_back_as_a_billiard_does(start: float) -> None:
    x = start
    while not 0 <= x <= 1:
        x = -x if x < 0 else 2 - x
    assert abs(float(reflect(torch.tensor(start, dtype=torch.float64))) - x) < 1e-12


@pytest.mark.parametrize("s", NOISE)
@pytest.mark.parametrize("x0", [0.0, 0.03, 0.5, 0.8, 1.0])
def test_the_density_is_both_long_sums_and_has_mass_one(s: float, x0: float) -> None:
    found = density(MIDDLES, x0, s)
    np.testing.assert_allclose(found, by_waves(MIDDLES, x0, s), rtol=1e-9, atol=1e-10)
    if s <= 2:  # 81 images reach that far
        np.testing.assert_allclose(found, by_images(MIDDLES, x0, s), rtol=1e-12, atol=1e-300)
    assert abs(found.mean() - 1) < 1e-9


@pytest.mark.parametrize("s", NOISE)
def test_the_score_is_the_slope_of_the_log_density_and_vanishes_at_the_walls(s: float) -> None:
    x = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)[:, None].expand(-1, 2).contiguous()
    x0, sigma = (
        torch.tensor([[0.1, 0.9]], dtype=torch.float64).expand(200, 2),
        torch.full((200,), s, dtype=torch.float64),
    )
    h = 1e-6
    for i in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[i]
        slope = reflected_log_density(x + step, x0, sigma) - reflected_log_density(x - step, x0, sigma)
        torch.testing.assert_close(reflected_score(x, x0, sigma)[:, i], slope / (2 * h), rtol=1e-5, atol=1e-5)
    walls = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    assert s**2 * float(reflected_score(walls, x0[:2], sigma[:2]).abs().max()) < 1e-11


def test_single_and_half_precision_agree_and_keep_their_type() -> None:
    x, x0 = torch.rand(200, 3, 2, generator=torch.Generator().manual_seed(0)), torch.full((200, 3, 2), 0.25)
    sigma = torch.logspace(-1.5, 0.5, 200)
    truth = reflected_score(x.double(), x0.double(), sigma.double())
    torch.testing.assert_close(reflected_score(x, x0, sigma).double(), truth, rtol=1e-4, atol=1e-3)
    half = reflected_score(x.bfloat16(), x0.bfloat16(), sigma)
    assert half.dtype == torch.bfloat16
    coarse = reflected_score(x.bfloat16().double(), x0.double(), sigma.double())
    torch.testing.assert_close(half.double(), coarse, rtol=2e-2, atol=2e-2)
    assert reflected_log_density(x, x0, sigma).shape == (200,)


@pytest.mark.parametrize(("r", "s"), [(0.05, 0.1), (0.3, 0.3), (0.2, 0.9), (0.5, 0.6)])
def test_two_transitions_are_one(r: float, s: float) -> None:
    # the equation of Chapman and Kolmogorov, across the border between both sums
    x = np.linspace(0, 1, 11)
    middle = density(MIDDLES, 0.2, r)
    both = [(density(MIDDLES, float(end), s) * middle).mean() for end in x]  # the density is symmetric
    np.testing.assert_allclose(both, density(x, 0.2, float(np.hypot(r, s))), rtol=1e-6)


@pytest.mark.parametrize(("x0", "s"), [(0.1, 0.15), (0.7, 0.5), (0.95, 0.05)])
def test_walks_and_states_follow_the_law(x0: float, s: float) -> None:
    n, steps = 4000, 400
    rng, x = np.random.default_rng(0), np.full(n, x0)
    for _ in range(steps):  # one hit of a wall a step at most: folded by hand
        x = x + s / steps**0.5 * rng.standard_normal(n)
        x = np.where(x < 0, -x, np.where(x > 1, 2 - x, x))
    assert kstest(x, distribution, args=(x0, s)).pvalue > 1e-3
    batch = rows(n, torch.full((n, 1), x0))
    states = reflected_states(low=s, high=s * (1 + 1e-6))(None, batch)
    assert kstest(states.x[:, 0].double().numpy(), distribution, args=(x0, s)).pvalue > 1e-3
    assert torch.equal(states.real, batch.x) and float((states.sigma - s).abs().max()) < 1e-4


def test_the_even_law_is_where_all_ends_and_stays() -> None:
    n = 4000
    far = reflected_states(low=1.5, high=1.6)(None, rows(n, torch.full((n, 1), 0.05)))
    assert kstest(far.x[:, 0].numpy(), "uniform").pvalue > 1e-3
    even = torch.rand(n, 1, generator=torch.Generator().manual_seed(0))
    assert kstest(reflected_states(low=0.1, high=0.2)(None, rows(n, even)).x[:, 0].numpy(), "uniform").pvalue > 1e-3
    assert np.abs(density(MIDDLES, 0.3, 2.0) - 1).max() < 1e-7


# -- fields -----------------------------------------------------------------------------------------------------------

CENTRES = torch.tensor([[0.05, 0.1], [0.5, 0.95], [0.9, 0.4]], dtype=torch.float64)
WIDTH, SIXTY = 0.05, falling_noise(60)


class Exact(nn.Module):
    """The score of a mixture of reflected Gaussians under noise, exactly: noise adds to their width."""

    classes = 3

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Tensor]:
        x, sigma = batch["x"].double(), (batch["sigma"].double().square() + WIDTH**2).sqrt()
        at = [centre.expand_as(x) for centre in CENTRES]
        log = torch.stack([reflected_log_density(x, c, sigma) for c in at], 1)
        if "y" in batch:
            y = batch["y"][:, None]
            log = log.masked_fill((torch.arange(3) != y) & (y != 3), -torch.inf)
        score = torch.stack([reflected_score(x, c, sigma) for c in at], 1)
        found = (log.softmax(1)[..., None] * score).sum(1)
        return {"score": found.to(batch["x"].dtype), "log_density": log.logsumexp(1)}


def data(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=rng)
    return reflect(CENTRES[y] + WIDTH * torch.randn(n, 2, dtype=torch.float64, generator=rng)).float(), y


def asked(net: nn.Module) -> Players:
    return Players({"student": Player("student", frozen(), net)})


def distance(a: Tensor, b: Tensor) -> float:
    return float(ot.emd2([], [], ot.dist(a.double().numpy(), b.double().numpy(), metric="euclidean")))


def test_the_score_of_a_mixture_is_the_mean_of_its_parts() -> None:
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = Exact()({"x": x, "sigma": torch.full((50,), 0.3)}, frozenset())
    slope = torch.autograd.grad(out["log_density"].sum(), x)[0]
    torch.testing.assert_close(out["score"], slope, rtol=1e-8, atol=1e-8)


def test_the_exact_score_has_the_least_loss() -> None:
    n = 4000
    batch = rows(n, data(n)[0])
    states = reflected_states()(None, batch)
    loss = reflected_matching()(asked(Exact()), states)
    assert loss.shape == (n,)
    for by in (0.7, 1.3):
        off = SimpleNamespace(student=lambda b, want, by=by: by * Exact()(b, frozenset({want}))["score"])
        assert float((reflected_matching()(off, states) - loss).mean()) > 0.01
    known = SimpleNamespace(student=lambda b, want: reflected_score(b.x, b.real, b.sigma))
    assert float(reflected_matching()(known, states).max()) == 0


@pytest.mark.parametrize(
    "sampler", [reflected_sample(noise=SIXTY), reflected_flow(noise=SIXTY)], ids=["sample", "flow"]
)
def test_samplers_with_the_exact_score_reach_the_data(sampler: Any) -> None:
    n = 600
    true, again = data(n)[0], data(n, 1)[0]
    drawn = sampler(asked(Exact()), rows(n, true))
    assert drawn.shape == (n, 2) and bool(((drawn >= 0) & (drawn <= 1)).all())
    assert distance(drawn, true) < distance(again, true) + 0.03
    assert distance(torch.rand(n, 2), true) > 0.25


def test_guidance_stays_inside_without_any_threshold() -> None:
    n = 200
    batch = rows(n, torch.zeros(n, 2)).with_(y=torch.zeros(n, dtype=torch.int64))
    plain, one, strong = (
        reflected_sample(noise=SIXTY)(asked(net), batch)
        for net in (Exact(), Guided(Exact(), 1.0), Guided(Exact(), 6.0))
    )
    torch.testing.assert_close(plain, one, rtol=0, atol=1e-4)
    assert bool(((strong >= 0) & (strong <= 1)).all())
    assert distance(strong, CENTRES[:1].expand(n, 2)) < distance(plain, CENTRES[:1].expand(n, 2))


class Net(nn.Module):
    """A small net, whose answer is divided by the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Tensor]:
        sigma = batch["sigma"][:, None]
        return {"score": self.body(torch.cat((4 * batch["x"] - 2, sigma.log()), 1)) / sigma}


def test_a_net_learns_the_score_from_data() -> None:
    torch.manual_seed(0)
    phase = Phase("student", ("student",), terms(score=reflected_matching()), reflected_states(low=0.05, high=2.0))
    recipe = Recipe(
        key="reflected", title="t", paper="arXiv:2304.04740", family="f", kind="method", learns="student",
        teacher="none", players={"student": learning(adam(lr=3e-3))},
        stages=(Learn("fit", (phase,), steps=300, batch_size=256),),
    )  # fmt: skip
    loop = Loop(recipe, {"student": Net()}, {"train": Table({"x": data(1000)[0]})}, Options(seed=10_000), Run(None, {}))
    loop.execute()
    with torch.no_grad():
        drawn = reflected_sample(noise=falling_noise(40, 0.05, 2.0))(loop.players, rows(500, torch.zeros(500, 2)))
    assert distance(drawn, data(500, 2)[0]) < 0.15


# -- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused() -> None:
    batch = rows(2, torch.tensor([[0.5], [1.5]]))
    with pytest.raises(BadData, match=r"in \[0, 1\], got 0.5 to 1.5"):
        reflected_states()(None, batch)
    with pytest.raises(BadValue, match=r"low = 1\.0, high = 0\.5"):
        reflected_states(low=1.0, high=0.5)(None, rows(1, torch.zeros(1, 1)))
    with pytest.raises(BadValue, match=r"sigma = 0\.0"):
        reflected_score(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1))
    with pytest.raises(BadValue, match="steps = 0"):
        falling_noise(0)
    with pytest.raises(UnknownName, match="sigma"):
        reflected_matching()(asked(Exact()), batch.with_(real=batch.x))
