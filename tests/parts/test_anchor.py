"""What DMD adds up: its direction is the gradient of a divergence in closed form, and pairs hold the student."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue, UnknownName
from limbeck.parts.anchor import anchored
from limbeck.parts.distribution import dm_gradient
from limbeck.parts.optimizer import adamw
from limbeck.parts.pairs import sampled_pairs
from limbeck.parts.solver import heun, karras
from limbeck.parts.states import noise_states
from limbeck.parts.thinning import thinned
from limbeck.players import Players, build
from limbeck.rng import Rng
from limbeck.roles import frozen, learning

REAL = Mixture(torch.ones(1), torch.tensor([[0.7]]), 1.3)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_direction_is_the_gradient_of_the_divergence_between_gaussians(t: float) -> None:
    # KL(q_t || p_t) = log(sp / sq) + (vq + (1 - t)^2 (m - m_p)^2) / (2 vp) - 1/2, v = (1 - t)^2 std^2 + t^2
    mean, std = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-0.4, 0.6))
    vq, vp = (1 - t) ** 2 * std**2 + t**2, (1 - t) ** 2 * 1.3**2 + t**2
    kl = 0.5 * (vp / vq.clone()).log() + (vq + (1 - t) ** 2 * (mean - 0.7) ** 2) / (2 * vp) - 0.5
    exact = torch.autograd.grad(kl, (mean, std))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z, e = torch.from_numpy(nodes).repeat_interleave(40)[:, None], torch.from_numpy(nodes).repeat(40)[:, None]
    mass = torch.from_numpy(np.outer(weights, weights).ravel() / weights.sum() ** 2)
    x = (mean + std * z).detach()
    fake = Mixture(torch.ones(1), mean.detach()[None, None], float(std.detach()))
    mu_real, mu_fake = (m.posterior((1 - t) * x + t * e, 1 - t, t)[0] for m in (REAL, fake))
    # without its normalisation, and in the scale of scores of x_t
    g = dm_gradient(x, mu_real, mu_fake) * (x - mu_real).abs() * ((1 - t) / t) ** 2
    found = [(mass * (g * dx)[:, 0]).sum() for dx in (torch.ones_like(z), z)]
    torch.testing.assert_close(torch.stack(found), torch.stack(exact), rtol=1e-6, atol=1e-9)


class Linear(nn.Module):
    """A generator x = a z + b."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, batch, want):
        return {"x0": self.a * batch["x"] + self.b}


def cast(student: nn.Module, n: int = 400) -> tuple[Players, Batch]:
    rows = Batch({"x": torch.zeros(n, 1)}, rng=Rng(("test",), torch.arange(n)))
    players = build(
        {"student": learning(adamw()), "teacher": frozen()}, {"student": student, "teacher": ExactField(REAL)}, rows
    )
    with torch.no_grad():
        pairs = sampled_pairs(solver=heun(), times=karras(18))(players, rows)
    players.turn("student", ("student",))
    return players, noise_states()(players, pairs)


def test_pairs_alone_teach_the_map_of_the_teacher() -> None:
    # the flow from N(0, 1) to N(m, s^2) along Gaussians is x = m + s e
    players, states = cast(Linear())
    net = players.student.module
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=50)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = anchored().total(players, states.with_())["loss"]
        loss.backward()
        return loss

    optimiser.step(closure)
    assert float(net.a.detach()) == pytest.approx(1.3, abs=0.02) and float(net.b.detach()) == pytest.approx(
        0.7, abs=0.02
    )


def test_it_asks_at_the_noise_of_the_pair_whatever_the_states_are() -> None:
    players, states = cast(fresh(0, 1), n=6)
    loss = anchored()(players, states)
    elsewhere = anchored()(players, states.with_(x=states.x + 3, t=torch.full((6,), 0.2)))
    assert torch.equal(loss, elsewhere) and loss.shape == (6,)
    with pytest.raises(UnknownName, match="'e'"):
        anchored()(players, Batch({"x": torch.zeros(2, 1), "real": torch.zeros(2, 1)}))


def test_pairs_of_fewer_rows_are_the_same_pairs() -> None:
    rows = Batch({"x": torch.zeros(10, 1), "name": list("abcdefghij")}, rng=Rng(("test",), torch.arange(10)))
    players = build({"teacher": frozen()}, {"teacher": ExactField(REAL)}, rows)
    make = sampled_pairs(times=(1.0, 0.5, 0.0))
    every, third = make(players, rows), (thinned(every=3) >> make)(players, rows)
    assert torch.equal(third.e, every.e[::3]) and torch.equal(third.x, every.x[::3]) and third.name == list("adgj")
    with pytest.raises(BadValue, match="every = 0"):
        thinned(every=0)(players, rows)
