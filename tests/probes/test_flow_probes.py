"""Likelihoods of flows, their bend and cost, and samples by class: against exact densities and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.data import Table
from limbeck.part import part
from limbeck.parts.solver import even, midpoint
from limbeck.players import Player, Players
from limbeck.probes.flow_likelihood import exact_divergence, flow_log_density, flow_nll, probed_divergence
from limbeck.probes.samplers import class_purity, class_w2, sampler_gap
from limbeck.probes.straightness import curvature, transport_cost
from limbeck.roles import frozen


def players(net: torch.nn.Module) -> Players:
    return Players({"student": Player("student", frozen(), net)})


MIX = Mixture(torch.tensor([0.7, 0.3]), torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), 0.4)


def test_the_likelihood_is_the_exact_density() -> None:
    x = MIX.sample(40, 0)[0].double()
    own, times = players(ExactField(MIX)), even(12, 0.0, 1.0)
    found = flow_log_density(own.student, Batch({"x": x}), midpoint(), times, exact_divergence())
    torch.testing.assert_close(found, MIX.log_density(x), atol=0.1, rtol=0)
    assert abs(float((found - MIX.log_density(x)).mean())) < 0.03
    # and the probe takes the rows of the test split, by an estimate without bias
    off = flow_nll(times=times, divergence=probed_divergence(), rows=40)(own, {"test": Table({"x": x})})
    assert off == pytest.approx(-float(found.mean()), abs=0.2)


def test_the_divergence_is_that_of_backward_derivatives_and_its_probe_has_no_bias() -> None:
    own = players(ExactField(MIX))
    states = Batch({"x": MIX.sample(50, 1)[0].double(), "t": torch.linspace(0.2, 0.9, 50).double()})
    v, div = exact_divergence()(own, states)
    jacobian = torch.autograd.functional.jacobian(lambda x: MIX.velocity(x, states.t).sum(0), states.x)
    torch.testing.assert_close(div, torch.einsum("ibi->b", jacobian))
    torch.testing.assert_close(v, MIX.velocity(states.x, states.t))
    again, guess = probed_divergence(directions=50)(own, states)
    torch.testing.assert_close(again, v)
    assert float((guess - div).abs().max()) < 1.0 and float((guess - div).mean().abs()) < 0.1
    assert float((probed_divergence()(own, states)[1] - div).abs().max()) > 0.05


class Swirl(torch.nn.Module):
    """x(t) turns around the origin at a constant rate: an arc of `angle` from noise to datum."""

    def __init__(self, angle: float) -> None:
        super().__init__()
        self.angle = angle

    def forward(self, batch, want):
        x = batch["x"]
        return {"velocity": self.angle * torch.stack((-x[:, 1], x[:, 0]), 1)}


def test_an_arc_bends_and_costs_as_geometry_says() -> None:
    data = {"test": Table({"x": torch.zeros(2_000, 2)})}
    # of an arc of angle w and radius r: chord 2 r sin(w / 2); |v|^2 - chord^2 in the mean; E r^2 = 2
    w = 1.0
    chord = 2 * (2 * math.sin(w / 2)) ** 2
    assert transport_cost(steps=100, rows=2_000)(players(Swirl(w)), data) == pytest.approx(chord, rel=0.05)
    assert curvature(steps=100, rows=2_000)(players(Swirl(w)), data) == pytest.approx(2 * w**2 - chord, rel=0.1)

    class Shift(torch.nn.Module):
        def forward(self, batch, want):
            return {"velocity": torch.full_like(batch["x"], 3.0)}

    assert curvature()(players(Shift()), data) < 1e-9
    assert transport_cost()(players(Shift()), data) == pytest.approx(18.0)


@part
def given(players: Players, batch: Batch, *, shift: int = 0) -> torch.Tensor:
    """The datum of another row of the same class, or of the next class."""
    turn = {0: 0.0, 1: math.pi / 4}[shift]
    c, s = math.cos(turn), math.sin(turn)
    return batch.x @ torch.tensor([[c, s], [-s, c]])


def test_samples_of_the_class_are_pure_and_those_of_the_next_are_not() -> None:
    bed = load_bed("mog8c")
    data, nobody = bed.data(0), Players({})
    # two opposite modes make a class, so an eighth of a turn leads to the next class
    assert class_purity(draw=given())(nobody, data) == pytest.approx(1 - math.exp(-4.5), abs=0.005)
    assert class_purity(draw=given(shift=1))(nobody, data) < 0.001
    assert class_w2(draw=given())(nobody, data) < 1e-9
    # turned by an eighth as a whole the mixture is the same, but each class is not
    assert class_w2(draw=given(shift=1), rows=2_000)(nobody, data) > 0.5
    assert sampler_gap(draw=given(shift=1), other=given())(nobody, data) < 0.1
    assert sampler_gap(draw=given(), other=given())(nobody, data) == 0
