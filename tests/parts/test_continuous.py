"""Continuous-time consistency: the conversion of paths, the tangent against exact trajectories, the loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.batch import Batch, Moment
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.beds._nets import fresh
from limbeck.part import part
from limbeck.parts.continuous import (
    apart,
    consistency_tangent,
    continuous_consistency,
    inverse_noise,
    level_states,
    level_weighed,
    risen,
    trig,
    trig_velocity,
)
from limbeck.parts.flowmap import log_weight
from limbeck.parts.optimizer import sgd
from limbeck.parts.path import from_rectified, to_rectified
from limbeck.parts.states import noise_states, uniform_levels
from limbeck.players import Player, Players, build
from limbeck.roles import built, frozen, learning

MIX = Mixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0, 0.5], [0.8, -0.2]]), torch.tensor([0.3, 0.5]))


class End(nn.Module):
    """The exact consistency function of a Gaussian N(m, c): where the trajectory through x_t ends."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, batch, want):
        x, t = batch["x"], batch["t"][:, None]
        sd = ((1 - t).square() * self.std**2 + t.square()).sqrt()
        x0 = self.mean + self.std * (x - (1 - t) * self.mean) / sd
        return {"x0": x0, "eps": (x - (1 - t) * x0) / t}


def as_players(**nets: nn.Module) -> Players:
    return Players({name: Player(name, frozen(), net.double()) for name, net in nets.items()})


def rows(n: int = 16, dim: int = 2) -> Batch:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, dim, dtype=torch.float64, generator=g)
    return Batch({"x": x, "t": torch.rand(n, dtype=torch.float64, generator=g) * 0.9 + 0.05})


@given(st.floats(0.2, 3.0), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_flow_model_is_a_trigonometric_one(d, seed):
    """The conversion of the paper, by its own formula with t = sin / (sin + cos), and there and back."""
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(8, dtype=torch.float64, generator=g) * (math.pi / 2 - 0.02) + 0.01
    x = d * torch.randn(8, 2, dtype=torch.float64, generator=g)
    scaled = Mixture(MIX.weights, MIX.means / d, MIX.spread.sqrt()[:, 0] / d)  # data in units of their deviation
    t = u.sin() / (u.sin() + u.cos())
    root = (t.square() + (1 - t).square()).sqrt()[:, None]
    seen = x / d * root
    tt = t[:, None]
    paper = ((1 - 2 * tt) * seen + (1 - 2 * tt + 2 * tt.square()) * scaled.velocity(seen, t)) / root
    ours = trig_velocity(as_players(p=ExactField(MIX))["p"], Batch({"x": x}), x, u, d) / d
    assert torch.allclose(ours, paper, atol=1e-9)
    there, level = to_rectified(trig(d), x, u)
    back, time = from_rectified(trig(d), there, level)
    assert torch.allclose(back, x) and torch.allclose(time, u)


def test_the_converted_field_is_the_derivative_of_its_path():
    """dx/du along an exact trajectory of the mixture, carried by its own solver."""
    d, batch = 0.7, rows()
    x, u = from_rectified(trig(d), batch.x, batch.t)
    h = 1e-4

    def along(s: float):
        there, t = to_rectified(trig(d), x, u)
        _, level = to_rectified(trig(d), x, u + s * h)
        moved = MIX.flow_map(there, t, level, tol=1e-13)
        a, b = trig(d).alpha(u + s * h), trig(d).sigma(u + s * h)
        return moved * (a + b)[:, None]

    quotient = (along(1) - along(-1)) / (2 * h)
    found = trig_velocity(as_players(p=ExactField(MIX))["p"], batch, x, u, d)
    assert torch.allclose(found, quotient, atol=1e-6)


@pytest.mark.parametrize("d", [0.5, 1.4])
def test_the_tangent_is_the_change_along_the_trajectory(d):
    """cos(u) df/du of the student's own data prediction, by a central quotient along the teacher's direction."""
    players, batch, h = as_players(student=fresh(3, 2), teacher=ExactField(MIX)), rows(), 1e-5
    x, u, g = consistency_tangent(players, batch, sigma_data=d, warm=1.0)
    field = trig_velocity(players.teacher, batch, x, u, d)

    def end(s: float):
        there, t = to_rectified(trig(d), x + s * h * field, u + s * h)
        return players.student(batch.with_(x=there, t=t), "x0")

    with torch.no_grad():
        change = (end(1) - end(-1)) / (2 * h)
    assert torch.allclose(g, u.cos()[:, None] * change, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eased", [False, True])
def test_the_tangent_vanishes_for_the_exact_consistency_function(eased):
    one = Mixture(torch.ones(1), torch.full((1, 2), 0.4), 0.6)
    players, batch = as_players(student=End(0.4, 0.6), teacher=ExactField(one)), rows()
    assert consistency_tangent(players, batch, sigma_data=0.6, warm=1.0, eased=eased)[2].abs().max() < 1e-7
    wrong = as_players(student=End(0.5, 0.6), teacher=ExactField(one))
    assert consistency_tangent(wrong, batch, sigma_data=0.6, warm=1.0, eased=eased)[2].abs().max() > 1e-2


def test_before_it_is_warm_the_tangent_is_the_gap_of_the_fields():
    players, batch = as_players(student=fresh(3, 2), teacher=ExactField(MIX)), rows()
    x, u, g = consistency_tangent(players, batch, sigma_data=1.0, warm=0.0)
    teacher = trig_velocity(players.teacher, batch, x, u, 1.0)
    gap = trig_velocity(players.student, batch, x, u, 1.0) - teacher
    cos, sin = u.cos()[:, None], u.sin()[:, None]
    assert torch.allclose(g, -cos.square() * gap)
    # eased, the derivative is there from the start: that along the trajectory, by differences
    h = 1e-5
    ahead, behind = (trig_velocity(players.student, batch, x + s * h * teacher, u + s * h, 1.0) for s in (1, -1))
    eased = consistency_tangent(players, batch, sigma_data=1.0, warm=0.0, eased=True)[2]
    assert torch.allclose(eased, -cos * gap - cos * sin * (ahead - behind) / (2 * h), atol=1e-6)


def test_the_loss_pushes_by_the_normalised_tangent():
    student = fresh(3, 2)
    batch = rows()
    nets = {"student": student, "teacher": ExactField(MIX)}
    players = build({"student": learning(sgd()), "teacher": frozen()}, nets, batch)
    players["student"].module.double()
    players.turn("test", ("student",))
    d, c = 0.8, 0.1
    loss = continuous_consistency(sigma_data=d, soft=c)(players, batch)
    found = torch.autograd.grad(loss.sum(), list(student.parameters()))
    x, u, g = consistency_tangent(players, batch, sigma_data=d, warm=1.0)
    h = g / (g.norm(dim=1, keepdim=True) + c)
    pushed = (trig_velocity(players.student, batch.with_(), x, u, d) / d * h).sum()
    wanted = torch.autograd.grad(pushed, list(student.parameters()))
    assert loss.shape == (batch.size,) and torch.allclose(loss, h.square().sum(1))
    assert all(torch.allclose(a, -2 * b, atol=1e-10) for a, b in zip(found, wanted, strict=True))


def test_a_learned_weight_is_best_at_the_logarithm_of_the_loss():
    batch = rows()
    players = build({"weights": built(log_weight(), sgd())}, {}, batch)
    players["weights"].module.double()
    size = part(lambda players, batch: 3 + batch.t)()
    loss = level_weighed(loss=size, prior=inverse_noise())(players, batch)
    expected = (3 + batch.t) * (1 - batch.t) / batch.t / 2
    assert torch.allclose(loss, expected)  # weights are 0 at first
    last = players["weights"].module.net[-1]
    last.bias.data.fill_(math.log(5.0))
    assert torch.allclose(level_weighed(loss=size)(players, batch), (3 + batch.t) / 5 + math.log(5.0))


def test_states_keep_the_datum_and_losses_may_have_their_own():
    batch = Batch({"x": torch.full((200, 3), 2.0)})
    states = level_states(levels=uniform_levels(low=0.5, high=0.5))(None, batch)
    assert states.real.eq(2).all() and states.x.mean() == pytest.approx(1.0, abs=0.1)
    assert states.x.std() == pytest.approx(0.5, abs=0.05)
    mean = part(lambda players, batch: batch.x.mean(1) + 10 * batch.t)()
    assert apart(states=noise_states(), loss=mean)(None, states).mean() == pytest.approx(10, abs=0.2)


def test_the_rise_ends_where_it_is_told():
    assert [risen(share=0.2)(Moment(step, 101)) for step in (0, 10, 20, 100)] == [0, 0.5, 1, 1]
    assert risen(share=0.0)(Moment(0, 10)) == 1
