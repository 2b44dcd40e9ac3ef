"""The laws by hand; fits of data from known coefficients; the allocation against brute force."""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import huber as scipy_huber
from torch import Tensor

from limbeck.errors import BadData, BadValue
from limbeck.parts.scaling import (
    Cells,
    Distilled,
    Supervised,
    _distilled,
    _supervised,
    allocate,
    bootstrap,
    cells_of,
    fit_distilled,
    fit_supervised,
    huber,
)

TRUE = Supervised(E=1.2, A=300.0, B=2000.0, alpha=0.4, beta=0.5, gamma=0.6)
UNDER = Distilled(A=200.0, B=3000.0, alpha=0.35, beta=0.6, gamma=0.7, c0=2.0, c1=30.0, f1=0.2, d1=1.3)


def grid(*axes: tuple[float, ...]) -> tuple[Tensor, ...]:
    return tuple(axis.flatten() for axis in torch.meshgrid(*(torch.tensor(a).double() for a in axes), indexing="ij"))


def alone(noise: float = 0.0) -> Cells:
    n, d = grid((1e5, 3e5, 1e6, 3e6), (1e6, 3e6, 1e7, 3e7, 1e8))
    off = torch.randn(len(n), generator=torch.Generator().manual_seed(0)).double()
    return Cells(n, d, TRUE(n, d) * (noise * off).exp())


def under(noise: float = 0.0) -> Cells:
    n, d, t = grid((1e5, 3e5, 1e6, 3e6), (1e6, 1e7, 1e8), (1.3, 1.6, 2.0, 2.5))
    off = torch.randn(len(n), generator=torch.Generator().manual_seed(0)).double()
    return Cells(n, d, UNDER(n, d, t, TRUE(n, d)) * (noise * off).exp(), t)


def test_the_laws_are_what_the_paper_writes() -> None:
    n, d, t = 1e6, 1e7, 1.5
    s = 1.2 + (300 / n**0.4 + 2000 / d**0.5) ** 0.6
    assert TRUE(torch.tensor(n).double(), torch.tensor(d).double()).item() == pytest.approx(s, rel=1e-12)
    gap = (1 + (t / (1.3 * s)) ** (1 / 0.2)) ** (-30 * 0.2)
    by_hand = t + t**-2.0 * gap * (200 / n**0.35 + 3000 / d**0.6) ** 0.7
    args = [torch.tensor(v, dtype=torch.float64) for v in (n, d, t, s)]
    assert UNDER(*args).item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("law", [_supervised, _distilled])
def test_slopes_are_those_of_finite_differences(law: Any) -> None:
    rng = np.random.default_rng(0)
    data = [rng.normal(size=7) for _ in range(2 if law is _supervised else 4)]
    theta = rng.normal(scale=0.5, size=6 if law is _supervised else 9)
    _, slopes = law(theta, *data)
    for i, slope in enumerate(slopes):
        step = np.eye(len(theta))[i] * 1e-6
        near = (law(theta + step, *data)[0] - law(theta - step, *data)[0]) / 2e-6
        assert np.allclose(slope, near, atol=1e-7)


def test_huber_is_scipys() -> None:
    r = torch.linspace(-0.02, 0.02, 41).double()
    assert np.allclose(huber(r, 1e-3).numpy(), scipy_huber(1e-3, r.numpy()) / 1e-3)


def test_a_fit_finds_the_coefficients_that_made_the_data() -> None:
    law, _ = fit_supervised(alone())
    assert abs(law.E / TRUE.E - 1) < 0.01
    assert law.alpha * law.gamma == pytest.approx(TRUE.alpha * TRUE.gamma, rel=0.05)
    assert law.beta * law.gamma == pytest.approx(TRUE.beta * TRUE.gamma, rel=0.05)
    n, d = torch.tensor([1e7]).double(), torch.tensor([1e9]).double()  # ten times beyond what was seen
    assert law(n, d).item() == pytest.approx(TRUE(n, d).item(), rel=5e-3)


def test_one_wild_run_does_not_move_a_fit() -> None:
    cells = alone(noise=1e-4)
    wild = cells.loss.clone()
    wild[7] *= 2
    law, _ = fit_supervised(Cells(cells.n, cells.d, wild))
    rest = torch.arange(len(wild)) != 7
    assert ((law(cells.n, cells.d) / cells.loss - 1).abs()[rest] < 5e-3).all()


def test_the_law_of_distillation_foretells_what_it_has_not_seen_and_a_law_without_teachers_does_not() -> None:
    cells = under(noise=1e-3)
    out = torch.arange(len(cells.loss)) % 5 == 2
    law, _ = fit_distilled(cells.at(~out), TRUE)
    there = cells.at(out)
    assert there.teacher is not None
    said = law(there.n, there.d, there.teacher, TRUE(there.n, there.d))
    assert (said / there.loss - 1).abs().mean() < 0.01
    blind, _ = fit_supervised(cells.at(~out))
    assert (blind(there.n, there.d) / there.loss - 1).abs().mean() > 0.05


def test_intervals_hold_the_truth() -> None:
    cells = alone(noise=2e-3)
    law, end = fit_supervised(cells)
    found = bootstrap(lambda c: fit_supervised(c, end)[0], cells, times=12)
    assert found.shape == (12, 6) and found[:, 0].std() > 0
    low, high = found[:, 0].quantile(0.05), found[:, 0].quantile(0.95)
    assert low - 0.02 <= law.E <= high + 0.02 and low - 0.05 < TRUE.E < high + 0.05


@pytest.mark.parametrize(("answers", "training"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_allocation_is_that_of_brute_force(answers: bool, training: bool) -> None:
    weights, budget, sizes, texts = 1e6, 1e16, (1e5, 1e9), (1e6, 1e11)
    got = allocate(TRUE, UNDER, weights=weights, budget=budget, answers=answers, training=training,
                   sizes=sizes, texts=texts)  # fmt: skip
    axes = [np.geomspace(*pair, 300) for pair in (sizes, texts)]
    best, where = math.inf, (0.0, 0.0)
    for n_t in axes[0]:
        d_s = (budget - training * 6 * n_t * axes[1]) / (6 * weights + answers * 2 * n_t)
        ok = d_s >= 1
        if not ok.any():
            continue
        l_t = TRUE.E + (TRUE.A / n_t**TRUE.alpha + TRUE.B / axes[1][ok] ** TRUE.beta) ** TRUE.gamma
        s = TRUE.E + (TRUE.A / weights**TRUE.alpha + TRUE.B / d_s[ok] ** TRUE.beta) ** TRUE.gamma
        gap = (1 + (l_t / (UNDER.d1 * s)) ** (1 / UNDER.f1)) ** (-UNDER.c1 * UNDER.f1)
        power = (UNDER.A / weights**UNDER.alpha + UNDER.B / d_s[ok] ** UNDER.beta) ** UNDER.gamma
        loss = l_t + l_t**-UNDER.c0 * gap * power
        if loss.min() < best:
            best, where = loss.min(), (n_t, axes[1][ok][loss.argmin()])
    assert got["loss"] <= best + 1e-9 and got["loss"] == pytest.approx(best, rel=1e-3)
    spent = got["tokens"] * (6 * weights + answers * 2 * got["teacher"])
    assert spent + training * 6 * got["teacher"] * got["teacher_tokens"] == pytest.approx(budget)
    if answers and training:  # elsewhere the loss is flat along a border
        cell = [math.log(pair[1] / pair[0]) / 299 for pair in (sizes, texts)]
        assert abs(math.log(got["teacher"] / where[0])) <= cell[0]
        assert abs(math.log(got["teacher_tokens"] / where[1])) <= cell[1]


def test_what_is_refused() -> None:
    cells = alone()
    with pytest.raises(BadData, match="at least 4 runs, got 2"):
        fit_supervised(cells.at(torch.arange(2)))
    with pytest.raises(BadData, match="not above 0"):
        fit_supervised(Cells(cells.n, cells.d, -cells.loss))
    with pytest.raises(BadData, match="teacher's loss of every run"):
        fit_distilled(cells, TRUE)
    with pytest.raises(BadValue, match="does not pay for a teacher"):
        allocate(TRUE, UNDER, weights=1e6, budget=10.0, answers=True, training=True)


def test_every_fourth_run_is_held_out() -> None:
    table = {"n": torch.arange(8.0), "d": torch.arange(8.0), "loss": torch.arange(8.0)}
    assert cells_of(table, 4, kept=False).n.tolist() == [3.0, 7.0]
    assert cells_of(table, 4).n.tolist() == [0.0, 1.0, 2.0, 4.0, 5.0, 6.0] and len(cells_of(table).n) == 8
    assert len(astuple(TRUE)) == 6 and len(astuple(UNDER)) == 9
