"""Distances of features against their closed forms, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor

from limbeck.adapters.modules import Plain
from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.errors import BadValue, Mismatch, UnknownName
from limbeck.part import part
from limbeck.players import Player, Players
from limbeck.probes.frechet import features_of, fid, frechet, kid, kid_interval, polynomial_mmd
from limbeck.roles import frozen


def draws(rows: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(9))
    return torch.randn(rows, 4, generator=generator) @ mix + shift


def test_frechet_is_that_of_normal_distributions() -> None:
    x, y = draws(300, 0).double(), draws(200, 1, 0.5).double() * 1.7
    s, r = np.cov(x.numpy().T), np.cov(y.numpy().T)
    gap = x.mean(0) - y.mean(0)
    want = float(gap @ gap) + np.trace(s + r - 2 * sqrtm(s @ r).real)
    assert frechet(x, y) == pytest.approx(want, rel=1e-9)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-9) and frechet(x, x) == pytest.approx(0, abs=1e-9)
    # in one dimension: (m - n)^2 + (s - r)^2
    a, b = x[:, :1], 3 * x[:, :1] + 2
    want = float((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2)
    assert frechet(a, b) == pytest.approx(want, rel=1e-9)
    # features that never vary, and fewer rows than features, are no reason to fail
    assert np.isfinite(frechet(torch.cat((x[:3], torch.zeros(3, 2).double()), 1), torch.ones(2, 6).double()))


def test_the_kernel_distance_is_unbiased() -> None:
    x, y = draws(40, 0), draws(30, 1, 1.0)
    k = [polynomial_kernel(a.numpy(), b.numpy(), degree=3, gamma=1 / 4, coef0=1) for a, b in ((x, x), (y, y), (x, y))]
    off = [(m.sum() - np.trace(m)) / (len(m) * (len(m) - 1)) for m in k[:2]]
    assert polynomial_mmd(x, y) == pytest.approx(off[0] + off[1] - 2 * k[2].mean(), rel=1e-5)
    same = [polynomial_mmd(draws(20, 2 * i), draws(20, 2 * i + 1)) for i in range(400)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 20 and min(same) < 0


def test_its_interval_holds_the_truth_of_equal_laws() -> None:
    found = [kid_interval(draws(60, 2 * i), draws(60, 2 * i + 1)) for i in range(3)]
    assert all(f.low is not None and f.high is not None and f.low < 0.5 and f.high > -0.5 for f in found)
    assert sum(f.low <= 0 <= f.high for f in found) >= 2  # type: ignore[operator]
    far = kid_interval(draws(60, 0), draws(60, 1, 3.0))
    assert far.low is not None and 0 < far.low < far.value < far.high  # type: ignore[operator]
    assert far.value == pytest.approx(polynomial_mmd(draws(60, 0), draws(60, 1, 3.0)))


@part
def same_rows(players: Players, batch: Batch, *, push: float = 0.0) -> Tensor:
    """The data themselves, moved."""
    return batch.x + push


def test_the_probes_judge_pictures_by_a_classifier() -> None:
    x = 2 * torch.rand(50, 1, 8, 8) - 1
    data = {"test": Table({"x": x})}
    seats = Players({"student": Player("student", frozen(), torch.nn.Linear(1, 1))})
    assert fid(draw=same_rows())(seats, data) == pytest.approx(0, abs=1e-6)
    assert kid(draw=same_rows())(seats, data) <= 0  # of equal samples it is below that of different ones of one law
    assert fid(draw=same_rows(push=1.0))(seats, data) > 1e-3 < kid(draw=same_rows(push=1.0))(seats, data)
    with pytest.raises(UnknownName, match="judge"):
        fid(draw=same_rows(), bed="")(seats, data)
    # a player may judge in its place
    judge = Plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)))
    judged = Players({**{n: seats[n] for n in seats}, "judge": Player("judge", frozen(), judge)})
    found = fid(draw=same_rows(push=1.0), bed="")(judged, data)
    # the last layer reads the pixels themselves: the same shape, moved by 1 in each of 64
    assert found == pytest.approx(64, rel=1e-5)


def test_what_cannot_be_measured_is_refused() -> None:
    for distance in (frechet, polynomial_mmd):
        with pytest.raises(BadValue, match="two rows"):
            distance(torch.ones(1, 2), torch.ones(5, 2))
    with pytest.raises(Mismatch, match="cannot read"):
        features_of("digits")(torch.zeros(2, 3, 8, 8))
