"""Kernels and ridge regression, against scikit-learn and the optimality that defines them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel

from limbeck.adapters.factorise import principal
from limbeck.parts.kernel import rbf, refitted, ridge, shrinkage


def points(n: int, seed: int = 0, dim: int = 3) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None)
@given(width=st.floats(0.2, 5), seed=st.integers(0, 50))
def test_the_gaussian_kernel_is_that_of_scikit_learn(width: float, seed: int) -> None:
    x, z = points(6, seed), points(4, seed + 1)
    expected = rbf_kernel(x.numpy(), z.numpy(), gamma=1 / (2 * width**2))
    np.testing.assert_allclose(rbf(x, z, width=width).numpy(), expected, rtol=1e-9)


def test_near_points_far_from_the_origin_keep_their_distance() -> None:
    # |x|^2 - 2 x z + |z|^2 would lose the distance of 1e-3 here in single precision.
    x = torch.tensor([[1000.0], [1000.125]])
    assert rbf(x, x, width=0.125)[0, 1].item() == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_a_kernel_matrix_is_symmetric_and_positive() -> None:
    k = rbf(points(12), points(12), width=0.7)
    assert torch.equal(k, k.T) and torch.equal(k.diagonal(), torch.ones(12, dtype=torch.float64))
    assert torch.linalg.eigvalsh(k).min() > 0


def test_the_fit_is_the_posterior_mean_of_a_gaussian_process() -> None:
    x, new = points(15), points(5, 1)
    y = x.sum(1).sin()
    process = GaussianProcessRegressor(RBF(0.9), alpha=0.3, optimizer=None).fit(x.numpy(), y.numpy())
    beta = ridge(rbf(x, x, width=0.9), y, penalty=0.3)
    fit = rbf(new, x, width=0.9) @ beta
    np.testing.assert_allclose(fit.numpy(), process.predict(new.numpy()), rtol=1e-7)


@settings(deadline=None)
@given(penalty=st.floats(0.01, 10), seed=st.integers(0, 50))
def test_coefficients_are_where_the_gradient_of_the_objective_vanishes(penalty: float, seed: int) -> None:
    x = points(8, seed)
    k, y = rbf(x, x, width=1.0), points(8, seed + 1, 1)[:, 0]
    beta = ridge(k, y, penalty=penalty).requires_grad_()
    objective = (k @ beta - y).square().sum() / 2 + penalty / 2 * beta @ k @ beta
    (slope,) = torch.autograd.grad(objective, beta)
    assert slope.abs().max() < 1e-9


def test_a_singular_kernel_without_a_penalty_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        ridge(torch.ones(3, 3), torch.ones(3), penalty=0.0)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_generations_are_scikit_learns_ridge_fitted_again_and_again(weight: float) -> None:
    x = points(10)
    y = x[:, 0].cos()
    k = rbf(x, x, width=1.1)
    model = KernelRidge(alpha=0.5, kernel="precomputed")
    fit = y.numpy()
    for generation in range(1, 6):
        # The first fit sees labels alone; each later one the labels mixed with what was fitted before.
        target = y.numpy() if generation == 1 else weight * y.numpy() + (1 - weight) * fit
        fit = model.fit(k.numpy(), target).predict(k.numpy())
        mine = refitted(k, y, penalty=0.5, weight=weight, generation=generation)
        np.testing.assert_allclose(mine.numpy(), fit, atol=1e-9)


@settings(deadline=None)
@given(st.floats(0.01, 50), st.floats(0.01, 5), st.floats(0, 1), st.integers(1, 30))
def test_every_generation_shrinks_more_and_never_turns_the_sign(d: float, penalty: float, a: float, tau: int) -> None:
    now, then = (
        float(shrinkage(torch.tensor(d, dtype=torch.float64), penalty=penalty, weight=a, generation=g))
        for g in (tau, tau + 1)
    )
    assert 0 <= then <= now * (1 + 1e-9) <= 1 + 1e-9


def test_principal_directions_are_those_of_scikit_learn() -> None:
    rows = points(40, 3, 6) * torch.arange(1.0, 7.0)
    mean, basis = principal(rows, 4)
    pca = PCA(4).fit(rows.numpy())
    np.testing.assert_allclose(mean.numpy(), pca.mean_, rtol=1e-9)
    # A direction has no sign: the product with its counterpart is one in size.
    turned = np.abs(np.sum(basis.numpy() * pca.components_, axis=1))
    np.testing.assert_allclose(turned, np.ones(4), rtol=1e-9)
