from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.kernel_ridge import KernelRidge

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds.sines import WIDTH
from limbeck.index import load
from limbeck.loop import Loop, Options
from limbeck.override import override
from limbeck.parts.kernel import rbf, refitted, ridge, shrinkage
from limbeck.parts.likelihood import optimal_weight
from limbeck.players import Player, Players
from limbeck.probes.regression import gap_to_generation
from limbeck.roles import frozen

GAMMA = 1 / (2 * WIDTH**2)


def points(seed: int, n: int = 30, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-np.pi, np.pi, (n, 1))
    return x, np.sin(2 * x[:, 0]) + noise * rng.normal(size=n)


def kernel(x: np.ndarray) -> torch.Tensor:
    return rbf(torch.tensor(x), torch.tensor(x), width=WIDTH)


def explicit(x: np.ndarray, y: np.ndarray, penalty: float, weight: float, generation: int) -> np.ndarray:
    """Refit scikit-learn's kernel ridge on the mixed targets, generation by generation."""
    fit, seen = KernelRidge(alpha=penalty, kernel="rbf", gamma=GAMMA), y
    for _ in range(generation):
        seen = fit.fit(x, weight * y + (1 - weight) * seen).predict(x)
    return seen


@pytest.mark.parametrize("generation", [1, 2, 5, 20])
@pytest.mark.parametrize("weight", [0.0, 0.35, 1.0, 1.4, -0.3])
def test_every_generation_comes_from_one_eigendecomposition(generation: int, weight: float) -> None:
    x, y = points(0)
    ours = refitted(kernel(x), torch.tensor(y), penalty=0.2, weight=weight, generation=generation)
    theirs = explicit(x, y, 0.2, weight, generation)
    assert np.abs(ours.numpy() - theirs).max() <= 1e-10 * max(1, np.abs(theirs).max())


def test_ridge_equals_scikit_learn() -> None:
    x, y = points(1)
    theirs = KernelRidge(alpha=0.5, kernel="rbf", gamma=GAMMA).fit(x, y).dual_coef_
    np.testing.assert_allclose(ridge(kernel(x), torch.tensor(y), penalty=0.5).numpy(), theirs, atol=1e-12)


def test_infinitely_many_generations_are_one_fit_with_an_amplified_penalty() -> None:
    x, y = points(2)
    k, penalty, weight = kernel(x), 0.2, 0.35
    amplified = k @ ridge(k, torch.tensor(y), penalty=penalty / weight)
    last = refitted(k, torch.tensor(y), penalty=penalty, weight=weight, generation=400)
    torch.testing.assert_close(last, amplified, rtol=0, atol=1e-10)


def test_without_labels_the_function_collapses_and_with_them_it_does_not() -> None:
    x, y = points(3)
    _, v = torch.linalg.eigh(kernel(x))
    share = {}
    for weight in (0.0, 0.35):
        last = refitted(kernel(x), torch.tensor(y), penalty=0.2, weight=weight, generation=200)
        share[weight] = float((v.mT @ last)[:-1].norm() / np.linalg.norm(y))  # all but the top direction
    assert share[0.0] < 5e-2 * share[0.35] and share[0.35] > 0.3


@given(st.floats(0.01, 50), st.floats(0.01, 5), st.floats(0, 1), st.integers(2, 30))
def test_shrinkage_obeys_its_recursion(d: float, penalty: float, weight: float, generation: int) -> None:
    keep = {"penalty": penalty, "weight": weight}
    eigenvalue = torch.tensor(d, dtype=torch.float64)
    now, before = (float(shrinkage(eigenvalue, generation=generation - k, **keep)) for k in (0, 1))
    assert now == pytest.approx(d / (d + penalty) * (weight + (1 - weight) * before), rel=1e-9)


class Fixed(torch.nn.Module):
    """Answers with what it is given."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(1.0).double())
        self.scores = scores

    def forward(self, batch, want):  # type: ignore[no-untyped-def]
        return {"logits": self.scores}


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.booleans())
def test_the_estimated_weight_minimises_the_held_out_error(seed: int, classes: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    f, echo = (torch.randn(40, 3, generator=g, dtype=torch.float64) for _ in range(2))
    y = torch.randint(0, 3, (40,), generator=g) if classes else torch.randn(40, 3, generator=g, dtype=torch.float64)
    nets = {"first": Fixed(f), "echo": Fixed(echo), "mix": Fixed(f)}
    players = Players({n: Player(n, frozen(), net) for n, net in nets.items()})
    _, metrics = optimal_weight()(players, Batch({"x": f, "y": y}), {})
    target = torch.nn.functional.one_hot(y, 3).double() if classes else y
    a, b = (f.softmax(-1), echo.softmax(-1)) if classes else (f, echo)
    found = minimize_scalar(lambda w: float((w * a + (1 - w) * b - target).square().sum()))
    assert metrics["weight"] == pytest.approx(found.x, abs=1e-5)
    assert float(players.mix.weight) == pytest.approx(metrics["weight"])
    clipped = optimal_weight(clip=True)(players, Batch({"x": f, "y": y}), {})[1]["weight"]
    assert clipped == pytest.approx(min(1, max(0, found.x)), abs=1e-5)


def test_fits_that_agree_leave_the_weight_at_one() -> None:
    f = torch.randn(5, 2, dtype=torch.float64)
    players = Players({n: Player(n, frozen(), Fixed(f)) for n in ("first", "echo", "mix")})
    assert optimal_weight()(players, Batch({"x": f, "y": torch.randn(5, 2).double()}), {})[1]["weight"] == 1.0


def test_the_recipe_run_by_the_loop_is_the_closed_form() -> None:
    bed, recipe, penalty, seed = load_bed("sines"), load("weighted-sd"), 1.0, 0
    small = {**recipe.claim.set, "student.optimizer.weight_decay": penalty / 30, "generations.times": 1}
    loop = Loop(override(recipe, small), {"student": bed.players["student"](seed)}, dict(bed.data(seed)), Options(seed))
    players = loop.execute()
    players.turn("probe")
    a = float(players.mix.weight)
    assert gap_to_generation(penalty=penalty, weight=a, generation=2)(players, loop.data) < 1e-3
    # and the estimate is the projection of the closed-form fits on the held-out rows
    train, valid = (loop.data[n].columns for n in ("train", "valid"))
    fit = KernelRidge(alpha=penalty, kernel="rbf", gamma=GAMMA)
    f = fit.fit(train["x"].numpy(), train["y"].numpy()).predict(valid["x"].numpy())
    g = fit.fit(train["x"].numpy(), fit.predict(train["x"].numpy())).predict(valid["x"].numpy())
    exact = minimize_scalar(lambda w: ((w * f + (1 - w) * g - valid["y"].numpy()) ** 2).sum()).x
    assert a == pytest.approx(exact, abs=0.02)
