"""Probes of regression, against scikit-learn and fits made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import mean_squared_error
from torch import Tensor, nn

from limbeck.data import Table
from limbeck.errors import UnknownName
from limbeck.parts.kernel import rbf
from limbeck.players import Player, Players
from limbeck.probes.regression import gap_to_generation, gap_to_ridge, mse
from limbeck.roles import frozen

X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X[:, 0].sin() + 0.1 * X[:, 1]
DATA = {"train": Table({"x": X[:12], "y": Y[:12]}), "test": Table({"x": X[12:], "y": Y[12:]})}


class Expansion(nn.Module):
    """A kernel expansion over fixed centres, with coefficients that were found elsewhere."""

    def __init__(self, beta: np.ndarray) -> None:
        super().__init__()
        self.beta = torch.from_numpy(beta)

    def kernel(self, x: Tensor) -> Tensor:
        return rbf(x, X[:12], width=1.0)

    def forward(self, batch: SimpleNamespace, want: frozenset[str]) -> dict[str, Tensor]:
        return {"logits": (self.kernel(batch["x"]) @ self.beta)[:, None]}


def fitted(penalty: float, target: Tensor = Y[:12]) -> tuple[Players, KernelRidge]:
    """A student with the coefficients of scikit-learn."""
    model = KernelRidge(alpha=penalty, kernel="rbf", gamma=0.5).fit(X[:12].numpy(), target.numpy())
    return Players({"student": Player("student", frozen(), Expansion(model.dual_coef_))}), model


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_the_error_on_test_rows_is_that_of_scikit_learn(penalty: float) -> None:
    players, model = fitted(penalty)
    expected = mean_squared_error(Y[12:].numpy(), model.predict(X[12:].numpy()))
    assert mse()(players, DATA) == pytest.approx(expected)
    with pytest.raises(UnknownName, match="pupil"):
        mse(player="pupil")(players, DATA)


def test_a_ridge_fit_has_no_gap_to_its_own_penalty_and_one_to_another() -> None:
    players, model = fitted(0.5)
    assert gap_to_ridge(penalty=0.5)(players, DATA) < 1e-10
    other = KernelRidge(alpha=2.0, kernel="rbf", gamma=0.5).fit(X[:12].numpy(), Y[:12].numpy())
    apart = model.predict(X[:12].numpy()) - other.predict(X[:12].numpy())
    assert gap_to_ridge(penalty=2.0)(players, DATA) == pytest.approx(np.sqrt(np.mean(apart**2)))


def test_a_fit_to_a_fit_is_the_second_generation() -> None:
    _, first = fitted(0.5)
    mixed = 0.25 * Y[:12] + 0.75 * torch.from_numpy(first.predict(X[:12].numpy()))
    players, _ = fitted(0.5, mixed)
    probe = gap_to_generation(penalty=0.5, weight=0.25, generation=2)
    assert probe(players, DATA) < 1e-9
    for wrong in ({"generation": 1}, {"generation": 3}, {"weight": 0.75}, {"penalty": 1.0}):
        how = {"penalty": 0.5, "weight": 0.25, "generation": 2} | wrong
        assert gap_to_generation(**how)(players, DATA) > 1e-3


def test_the_first_generation_is_ridge() -> None:
    players, _ = fitted(3.0)
    one = gap_to_generation(penalty=0.7, weight=0.4, generation=1)(players, DATA)
    assert one == pytest.approx(gap_to_ridge(penalty=0.7)(players, DATA))
