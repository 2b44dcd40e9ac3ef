"""Flows on the simplex: beta distributions of SciPy, and a law whose exact field is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import beta, betainc, betaincinv
from scipy.stats import beta as beta_law
from scipy.stats import kstest

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds.hairpins import KINDS, LETTERS, Hairpins
from limbeck.errors import BadValue
from limbeck.parts.dirichlet import (
    dirichlet_flow,
    dirichlet_states,
    flow_pairs,
    letters,
    on_simplex,
    one_pass,
    pull,
    simplex_noise,
    straight_pairs,
    toward_corner,
)
from limbeck.players import Player, Players
from limbeck.probes.sequences import chain_nll, word_divergence
from limbeck.rng import Rng
from limbeck.roles import frozen

LAW, BED = Hairpins(), load_bed("hairpins")
WANT = frozenset({"logits"})


def exact() -> Players:
    return Players({name: Player(name, frozen(), Hairpins()) for name in ("student", "teacher", "oracle")})


@pytest.mark.parametrize("kinds", [2, 4, 20])
def test_the_pull_is_the_derivative_of_the_incomplete_beta_function(kinds: int) -> None:
    # where SciPy's difference still has digits: (1 - b)^(K - 1) must not vanish
    b, h, n = np.linspace(1e-3, 0.95 if kinds < 20 else 0.3, 200), 1e-5, kinds - 1
    for a in (1.0, 1.7, 4.0, 8.0):
        slope = (betainc(a + h, n, b) - betainc(a - h, n, b)) / (2 * h)
        truth = -slope * beta(a, n) / ((1 - b) ** n * b ** (a - 1))
        np.testing.assert_allclose(pull(torch.tensor(b), torch.tensor(a), kinds).numpy(), truth, rtol=1e-5)


def test_the_pull_is_smooth_to_the_corner_and_stops_at_the_face() -> None:
    for kinds in (2, 4, 20):
        b = torch.tensor([0.0, 0.5 - 1e-9, 0.5 + 1e-9, 1 - 1e-9, 1.0], dtype=torch.float64)
        c = pull(b, torch.tensor(5.0), kinds)
        assert c[0] < 1e-20 and c.isfinite().all()
        torch.testing.assert_close(c[1::2], c[2::2], rtol=1e-6, atol=0)
    with pytest.raises(BadValue, match="two kinds"):
        pull(torch.ones(1), torch.tensor(2.0), 1)


def test_the_field_carries_the_law_of_noise_to_that_of_every_level() -> None:
    # along the field a point keeps its quantile of Beta(alpha, K - 1)
    for kinds in (4, 20):
        start, quantile = betaincinv(1.0, kinds - 1, np.linspace(0.05, 0.95, 7)), np.linspace(0.05, 0.95, 7)

        def slope(a: float, x: np.ndarray, kinds: int = kinds) -> np.ndarray:
            return pull(torch.tensor(x), torch.tensor(a, dtype=torch.float64), kinds).numpy() * (1 - x)

        end = solve_ivp(slope, (1.0, 6.0), start, rtol=1e-6, atol=1e-8).y[:, -1]
        np.testing.assert_allclose(end, betaincinv(6.0, kinds - 1, quantile), atol=1e-5)


def test_noised_letters_follow_the_dirichlet_law() -> None:
    n = 4_000
    rng, tokens = Rng(("seed",), torch.arange(n)), torch.full((n, 1), 2)
    for a in (1.0, 3.5):
        x = toward_corner(rng, tokens, torch.full((n,), a), 5)[:, 0].double()
        torch.testing.assert_close(x.sum(1), torch.ones(n, dtype=torch.float64), rtol=0, atol=1e-6)
        assert kstest(x[:, 2].numpy(), beta_law(a, 4).cdf).pvalue > 1e-3
        assert kstest((x[:, 0] / (1 - x[:, 2])).numpy(), beta_law(1, 3).cdf).pvalue > 1e-3
    assert kstest(simplex_noise(rng, "z", 1, 5)[:, 0, 3].numpy(), beta_law(1, 4).cdf).pvalue > 1e-3
    with pytest.raises(BadValue, match=r"0 \.\. 1"):
        toward_corner(rng, tokens, torch.ones(n), 2)


def test_levels_of_training_and_its_loss() -> None:
    batch = Batch({"tokens": LAW.sample(4_000, 0)}, rng=Rng(("seed",), torch.arange(4_000)))
    states = dirichlet_states(scale=2.0)(exact(), batch)
    assert abs(float(states.alpha.mean()) - 3) < 0.15 and states.alpha.min() >= 1
    sure = SimpleNamespace(student=lambda b, want: 50.0 * torch.nn.functional.one_hot(b.tokens, KINDS).float())
    assert float(letters()(sure, states).max()) < 1e-6
    blind = SimpleNamespace(student=lambda b, want: torch.zeros(*b.tokens.shape, KINDS))
    torch.testing.assert_close(letters()(blind, states), torch.full((4_000,), KINDS).log())


def test_the_nearest_point_of_the_simplex_is_nearest() -> None:
    x = 3 * torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = on_simplex(x)
    assert p.min() >= 0 and torch.allclose(p.sum(1), torch.ones(200, dtype=torch.float64))
    # no corner, so no point, lies on the side of x: (x - p) (e_k - p) <= 0
    assert float((x - p - ((x - p) * p).sum(1, keepdim=True)).max()) < 1e-9


def test_the_exact_classifier_agrees_with_the_likelihoods() -> None:
    # all letters but one are seen clearly, so that its posterior is the likelihood of four sequences
    z = LAW.sample(LETTERS, seed=3)
    for place in range(LETTERS):
        x = torch.nn.functional.one_hot(z[place], KINDS).float()
        x[place] = 1 / KINDS
        choices = z[place].repeat(KINDS, 1)
        choices[:, place] = torch.arange(KINDS)
        truth = LAW({"tokens": choices}, frozenset({"log_likelihood"}))["log_likelihood"].softmax(0)
        for level in ({"alpha": torch.tensor([5.0])}, {"share": torch.tensor([0.25])}):
            found = LAW({"x": x[None], **level}, WANT)["logits"][0, place].softmax(0)
            torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-6)


def test_in_pure_noise_a_letter_is_as_likely_as_in_the_data() -> None:
    x = simplex_noise(Rng(("seed",), torch.arange(3)), "z", LETTERS, KINDS)
    for level in ({"alpha": torch.ones(3)}, {"share": torch.zeros(3)}):
        found = LAW({"x": x, **level}, WANT)["logits"].softmax(-1)
        often = torch.nn.functional.one_hot(LAW.sample(20_000, 1), KINDS).float().mean(0)
        assert float((found - often).abs().max()) < 0.02


def test_the_exact_flow_samples_the_law_and_pairs_are_its_ends() -> None:
    players, data = exact(), BED.data(0)
    z = data["test"].take(torch.arange(600))["tokens"]
    entropy = -float(LAW({"tokens": z}, frozenset({"log_likelihood"}))["log_likelihood"].mean()) / LETTERS
    flow = dirichlet_flow(steps=30)
    assert abs(chain_nll(draw=flow, rows=600)(players, data) - entropy) < 0.1
    assert word_divergence(draw=flow, rows=600)(players, data) < 0.06
    assert chain_nll(draw=one_pass(), rows=600)(players, data) > entropy + 1  # one pass of the flow knows no pair
    batch = Batch({"tokens": z[:50]}, rng=Rng(("probe",), torch.arange(50)))
    pairs = flow_pairs(steps=30)(players, batch)
    assert torch.equal(pairs.tokens, flow(players, batch)) and float(pairs.alpha.max()) == 1
    straight = straight_pairs(steps=30)(players, batch)
    assert torch.equal(straight.x, pairs.x) and not torch.equal(straight.tokens, pairs.tokens)
