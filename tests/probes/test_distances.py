"""Distances between samples, against SciPy, POT and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn

from limbeck.beds import load_bed
from limbeck.data import Table
from limbeck.parts.states import few_step
from limbeck.players import Player, Players
from limbeck.probes.distribution import (
    energy_distance,
    energy_gap,
    gaussian_mmd,
    mmd,
    mode_quality,
    mode_recall,
    sliced_w2,
    sliced_wasserstein,
)
from limbeck.roles import frozen


class Answer(nn.Module):
    """A student whose samples are known."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.x = x

    def forward(self, batch, want):
        return {"x0": self.x[: len(batch["x"])]}


def student(x: torch.Tensor) -> Players:
    return Players({"student": Player("student", frozen(), Answer(x))})


def cloud(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_sliced_distance_is_that_of_pot() -> None:
    ot = pytest.importorskip("ot")
    x, y = cloud(300, 3, 0), 2 * cloud(300, 3, 1) + 1
    u = cloud(40, 3, 2)
    u /= u.norm(dim=1, keepdim=True)
    theirs = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=u.T.numpy(), p=2)
    assert sliced_wasserstein(x, y, u) == pytest.approx(float(theirs), rel=1e-9)


def test_sliced_distance_of_a_shift() -> None:
    # moving everything by m costs |u . m| in direction u, so |m| / sqrt(D) on average over the sphere
    data = {"test": Table({"x": cloud(500, 2, 0).float()})}
    moved = data["test"].columns["x"] + torch.tensor([3.0, 4.0])
    assert sliced_w2(projections=4000)(student(moved), data) == pytest.approx(5 / math.sqrt(2), rel=0.03)


def test_energy_distance_is_that_of_scipy() -> None:
    x, y = cloud(200, 1, 0), cloud(150, 1, 1) * 1.5 + 0.3
    assert energy_gap(x, y) == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0]), rel=1e-9)


def test_mmd_of_two_gaussians_has_a_closed_form() -> None:
    # for N(0, 1) and N(m, 1), E k = sqrt(h^2 / (h^2 + 2)) exp(-m^2 / (2 (h^2 + 2)))
    m, h = 1.5, 1.0
    x, y = cloud(1500, 1, 0), cloud(1500, 1, 1) + m
    c = math.sqrt(h**2 / (h**2 + 2))
    expected = math.sqrt(2 * c * (1 - math.exp(-(m**2) / (2 * (h**2 + 2)))))
    assert gaussian_mmd(x, y, h) == pytest.approx(expected, abs=0.04)


def test_probes_of_the_truth_and_of_a_collapsed_student() -> None:
    bed = load_bed("mog8")
    data = bed.data(0)
    truth = bed.players["oracle"](0).mixture.sample(10_000, 5)[0]
    collapsed = torch.tensor([[2.0, 0.0]]).expand(10_000, 2)
    good, bad = student(truth), student(collapsed)
    assert sliced_w2()(good, data) < 0.08 < 1 < sliced_w2()(bad, data)
    assert mmd()(good, data) < 0.04 < 0.5 < mmd()(bad, data)
    assert energy_distance()(good, data) < 0.05 < 0.5 < energy_distance()(bad, data)
    # the truth holds all modes and 98.9% within three deviations; the other sits in the first mode alone
    assert mode_recall()(good, data) == 1.0 and mode_recall()(bad, data) == 1 / 8
    assert mode_quality()(good, data) == pytest.approx(1 - math.exp(-4.5), abs=0.006)
    assert mode_quality()(bad, data) == 1.0
    assert mode_quality()(student(torch.zeros(10_000, 2)), data) == 0.0


def test_a_mode_counts_from_a_share_of_its_due_mass() -> None:
    x = torch.cat((0.1 * cloud(900, 2, 0), 0.1 * cloud(100, 2, 1) + 5)).float()
    data = {"test": Table({"x": x, "mode": (torch.arange(1000) >= 900).long()})}
    few = x.clone()
    few[915:] = few[:85]  # 15 of the 100 that are due remain
    assert mode_recall()(student(few), data) == 0.5
    assert mode_recall(share=0.1)(student(few), data) == 1.0


def test_sampling_uses_the_columns_of_the_rows_and_the_same_noise_for_all() -> None:
    seen = []

    class Sees(nn.Module):
        def forward(self, batch, want):
            seen.append((batch["y"], batch["x"]))
            return {"x0": batch["x"]}

    data = {"test": Table({"x": torch.zeros(10, 2, 2), "y": torch.arange(10)})}
    for _ in range(2):
        energy_distance(draw=few_step(), rows=6)(Players({"student": Player("student", frozen(), Sees())}), data)
    assert seen[0][0].tolist() == list(range(6)) and seen[0][1].shape == (6, 2, 2)
    assert torch.equal(seen[0][1], seen[1][1])


def test_the_sampler_is_any_part() -> None:
    data = {"test": Table({"x": torch.zeros(4, 2)})}
    other = {"other": Player("other", frozen(), Answer(torch.ones(4, 2)))}
    assert sliced_w2(draw=few_step().on(student="other"))(Players(other), data) > 0.5
