"""The Langevin chain of expectation-maximisation against distribution matching and a law in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.beds._nets import fresh
from limbeck.parts.distribution import dm_gradient
from limbeck.parts.langevin import displacement_matching, langevin_states
from limbeck.parts.optimizer import adamw
from limbeck.parts.states import like, uniform_levels
from limbeck.players import Players, build
from limbeck.rng import Rng
from limbeck.roles import frozen, learning

LEVELS = uniform_levels(low=0.1, high=0.9)
MIXTURE = Mixture(torch.ones(3), torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, -2.0]]), 0.3)


def cast(student: nn.Module, teacher: nn.Module, critic: nn.Module, n: int) -> tuple[Players, Batch]:
    batch = Batch({"x": torch.zeros(n, 2, dtype=torch.float64)}, rng=Rng(("test",), torch.arange(n)))
    roles = {"student": learning(adamw()), "teacher": frozen(), "critic": frozen()}
    players = build(roles, {"student": student.double(), "teacher": teacher, "critic": critic.double()}, batch)
    return players, batch


def matched(players: Players, batch: Batch) -> torch.Tensor:
    """The direction of distribution matching on the very draws of the chain."""
    t = LEVELS(players, batch).double()
    z, e = (batch.rng.normal(name, 2).double() for name in ("z", "e"))
    with torch.no_grad():
        x = players.student(batch.with_(x=z, t=torch.ones_like(t)), "x0")
        seen = batch.with_(x=like(1 - t, x) * x + like(t, x) * e, t=t)
        return dm_gradient(x, players.teacher(seen, "x0"), players.critic(seen, "x0"))


def test_one_step_with_fixed_latents_is_distribution_matching() -> None:
    players, batch = cast(fresh(0, 2), ExactField(MIXTURE), fresh(1, 2), 64)
    states = langevin_states(levels=LEVELS, steps=1, noise_rate=0.3, latent_rate=0.0)(players, batch)
    players.turn("student", ("student",))
    x = players.student(states, "x0")
    loss = displacement_matching()(players, states.with_())
    (found,) = torch.autograd.grad(
        0.5 * ((x - states.target).square().sum(1) / states.scale).sum(), x, retain_graph=True
    )
    torch.testing.assert_close(found, 0.3 * matched(players, batch), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss, 0.25 * ((x - states.target).square().sum(1) / states.scale))
    loss.sum().backward()
    assert all(p.grad is None for name in ("teacher", "critic") for p in players[name].params)


class Slope(nn.Module):
    """A generator x = a z."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, batch, want):
        return {"x0": self.a * batch["x"]}


def test_the_chain_finds_the_latents_of_the_teacher() -> None:
    # G(z) = a z and teacher N(m, a^2): p_t(x_t) p(z | x_t) has z ~ N(m / a v, .), where v weighs the mean by how much
    # of x_t is signal: E z = E[z | x_t] over p_t = (a (1 - t)^2 m) / ((1 - t)^2 a^2 + t^2)
    a, m, t = 1.5, 0.8, 0.5
    teacher = Mixture(torch.ones(1), torch.full((1, 2), m), a)
    own = Mixture(torch.ones(1), torch.zeros(1, 2), a)
    players, batch = cast(Slope(a), ExactField(teacher), ExactField(own), 4000)
    chain = langevin_states(levels=uniform_levels(low=t, high=t), steps=150, noise_rate=0.05, latent_rate=0.05)
    states = chain(players, batch)
    expected = a * (1 - t) ** 2 * m / ((1 - t) ** 2 * a**2 + t**2)
    assert float(states.x.mean()) == pytest.approx(expected, abs=0.04)
    assert float(states.x.var()) == pytest.approx(1.0, abs=0.08)  # the variance of z is the prior's: both laws have it


def test_the_noise_of_the_chain_is_taken_out_of_its_target() -> None:
    # where teacher and critic agree nothing should move; without cancellation the target is noise around the sample
    field = ExactField(MIXTURE)
    players, batch = cast(fresh(0, 2), field, field, 256)
    chain = langevin_states(levels=LEVELS, steps=5)
    x = [
        s.target - players.student(s, "x0")
        for s in (chain(players, batch), chain.child("cancel", False)(players, batch))
    ]
    assert x[0].abs().max() < 1e-12 and x[1].abs().mean() > 0.1


def test_the_latents_move_along_the_backward_pass() -> None:
    # J^T v by the chain equals the Jacobian written out
    players, batch = cast(fresh(0, 2), ExactField(MIXTURE), fresh(1, 2), 4)
    still = langevin_states(levels=LEVELS, steps=1, latent_rate=0.0)(players, batch)
    moved = langevin_states(levels=LEVELS, steps=1, latent_rate=1e-3)(players, batch)
    z = still.x
    t = LEVELS(players, batch).double()
    push = -matched(players, batch) * still.scale[:, None] * like(((1 - t) / t).square(), z)

    def g(one: torch.Tensor) -> torch.Tensor:
        return players.student(Batch({"x": one[None], "t": torch.ones(1, dtype=torch.float64)}), "x0")[0]

    pulled = torch.stack([torch.autograd.functional.jacobian(g, row).T @ p for row, p in zip(z, push, strict=True)])
    noise = batch.rng.fold("chain", 0).normal("latent", 2).double()
    torch.testing.assert_close(moved.x, z + 1e-3 * (pulled - z) + 2e-3**0.5 * noise)
