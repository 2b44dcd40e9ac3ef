from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import huber
from torch import nn

from limbeck.adapters.modules import Plain
from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.part import Part
from limbeck.parts.features import (
    feature_mse,
    linear_projector,
    orthogonal_projector,
    project,
    standardised_features,
    whiten,
    whitened_features,
)
from limbeck.players import Player, Players
from limbeck.probes.features import gram_gap
from limbeck.roles import frozen

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))


def players(projector: Part, student: int = 4, teacher: int = 9) -> Players:
    torch.manual_seed(0)
    nets = {
        n: Plain(nn.Sequential(nn.Linear(5, w), nn.Tanh(), nn.Linear(w, 3)))
        for n, w in (("student", student), ("teacher", teacher))
    }
    live = {n: Player(n, frozen(), net) for n, net in nets.items()}
    live["projector"] = Player("projector", frozen(), projector(Players(live), Batch({"x": X})))
    return Players(live)


def train(ps: Players, loss: Part, learners: tuple[str, ...], steps: int = 120) -> tuple[float, float]:
    """The loss before and after training some of the players on it."""
    for name, p in ps.items():
        p.turn("test", name in learners)
    optimiser = torch.optim.Adam([w for n in learners for w in ps[n].module.parameters()], lr=0.03)
    values = []
    for _ in range(steps):
        value = loss(ps, Batch({"x": X})).mean()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    return values[0], values[-1]


@pytest.mark.parametrize(("student", "teacher"), [(4, 9), (6, 6), (9, 4)])
def test_the_projector_stays_orthogonal_on_the_smaller_side_whatever_is_learned(student: int, teacher: int) -> None:
    ps = players(orthogonal_projector(), student, teacher)
    before = ps.projector.net.weight.detach().clone()
    train(ps, standardised_features(), ("student", "projector"))
    w = ps.projector.net.weight.detach()
    singular = torch.linalg.svdvals(w)
    assert w.shape == (teacher, student) and (w - before).norm() > 0.1  # it did learn
    assert (singular - 1).abs().max() < 1e-5


def test_only_the_orthogonal_projector_keeps_inner_products() -> None:
    gaps = {}
    for kind in (orthogonal_projector(), linear_projector()):
        ps = players(kind)
        train(ps, standardised_features(), ("student", "projector"))
        gaps[kind.spec.name] = gram_gap()(ps, {"test": Table({"x": X})})
    assert gaps["orthogonal_projector"] < 1e-5 and gaps["linear_projector"] > 0.1


def test_before_a_frozen_student_the_orthogonal_projector_learns_less_than_a_free_one() -> None:
    # what cannot be learned by the projector has to be learned by the student
    falls = {}
    for kind in (orthogonal_projector(), linear_projector()):
        before, after = train(players(kind), standardised_features(), ("projector",))
        falls[kind.spec.name] = before - after
    assert falls["orthogonal_projector"] < 0.6 * falls["linear_projector"]


def test_standardised_loss_is_scipys_huber_of_standardised_rows() -> None:
    ps = players(orthogonal_projector())
    t = ps.teacher(Batch({"x": X}), "features").detach().numpy()
    target = (t - t.mean(1, keepdims=True)) / np.sqrt(t.var(1, keepdims=True) + 1e-5)
    expected = huber(1, project(ps, Batch({"x": X})).detach().numpy() - target).mean(1)
    np.testing.assert_allclose(standardised_features()(ps, Batch({"x": X})).detach().numpy(), expected, rtol=1e-4)


def test_whitened_features_are_uncorrelated_with_unit_variance_under_any_invertible_map() -> None:
    g = torch.Generator().manual_seed(1)
    z = torch.randn(200, 4, generator=g, dtype=torch.float64)
    mixed = z @ torch.randn(4, 4, generator=g, dtype=torch.float64) + 3
    np.testing.assert_allclose(np.cov(whiten(mixed, eps=0).numpy().T), np.eye(4), atol=1e-10)


@pytest.mark.parametrize("loss", [standardised_features, whitened_features, feature_mse])
def test_losses_are_per_row_and_reach_student_and_projector_only(loss: Callable[[], Part]) -> None:
    ps = players(linear_projector())
    for name, p in ps.items():
        p.turn("test", name != "teacher")
    value = loss()(ps, Batch({"x": X}))
    value.sum().backward()
    assert value.shape == (64,) and (value > 0).all()
    assert ps.student.net[0].weight.grad is not None and ps.projector.net.weight.grad is not None
    assert all(w.grad is None for w in ps.teacher.module.parameters())
