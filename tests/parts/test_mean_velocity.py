"""Average velocities from their own derivative: exact maps, gradients, and differences beside derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue
from limbeck.parts.flowmap import triangle_states
from limbeck.parts.mean_velocity import DifferenceStep, difference_step, mean_velocity, mean_velocity_by_difference
from limbeck.parts.optimizer import sgd
from limbeck.players import Player, Players, build
from limbeck.roles import built, frozen, learning


class ExactMap(nn.Module):
    """The average velocity of N(mean, std^2); on the diagonal its velocity."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.c = mean, std**2

    def sd(self, t: Tensor) -> Tensor:
        return ((1 - t).square() * self.c + t.square()).sqrt()

    def forward(self, batch, want):
        x, t, s = batch["x"], batch["t"][:, None], batch["s"][:, None]
        growth = (s + t - self.c * (2 - s - t)) / (self.sd(s) + self.sd(t))
        return {"velocity": (x - (1 - t) * self.mean) / self.sd(t) * growth - self.mean}


class Rough(nn.Module):
    """A net whose level is multiplied beyond what any step in float32 can follow."""

    def forward(self, batch, want):
        return {"velocity": torch.sin(1e7 * batch["t"][:, None] + batch["x"])}


def states(n: int = 16, dtype: torch.dtype = torch.float64) -> Batch:
    g = torch.Generator().manual_seed(0)
    ends = torch.rand(2, n, generator=g, dtype=dtype)
    columns = {"x": torch.randn(n, 2, generator=g, dtype=dtype), "t": ends.amax(0), "s": ends.amin(0)}
    return Batch({**columns, "velocity": torch.randn(n, 2, generator=g, dtype=dtype)})


def test_an_exact_map_meets_it_and_a_wrong_one_does_not():
    net, batch = ExactMap(0.3, 0.5), states()
    field = net(batch.with_(s=batch.t), frozenset())["velocity"]
    for wrong, low, high in ((0.0, 0.0, 1e-20), (0.2, 1e-3, 10.0)):
        student = Player("student", frozen(), ExactMap(0.3 + wrong, 0.5))
        loss = mean_velocity()(Players({"student": student}), batch.with_(velocity=field))
        assert low <= loss.mean() < high


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_differences_give_the_gradients_of_derivatives(dtype):
    batch = states(dtype=dtype)
    roles = {"student": learning(sgd()), "step": built(difference_step())}
    players = build(roles, {"student": fresh(0, 2).to(dtype)}, triangle_states()(None, batch))
    players.turn("test", ("student",))
    found = []
    for part in (mean_velocity(), mean_velocity_by_difference()):
        loss = part(players, batch.with_()).mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, players["student"].params)]))
    assert players["step"].module.error < 0.02
    assert (found[0] - found[1]).norm() < 0.02 * found[0].norm()


def test_the_target_is_held_fixed():
    """Gradients are those of a regression on a target that is known from outside, by a central quotient."""
    batch, h = states(), 1e-5
    players = build({"student": learning(sgd())}, {"student": fresh(0, 2).double()}, batch)
    players.turn("test", ("student",))
    found = torch.autograd.grad(mean_velocity()(players, batch).sum(), players["student"].params)
    ends = [batch.with_(x=batch.x + k * h * batch.velocity, t=batch.t + k * h) for k in (1, -1)]
    with torch.no_grad():
        ahead, behind = (players.student(end, "velocity") for end in ends)
    target = batch.velocity - (batch.t - batch.s)[:, None] * (ahead - behind) / (2 * h)
    loss = (players.student(batch.with_(), "velocity") - target).square().sum()
    wanted = torch.autograd.grad(loss, players["student"].params)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(found, wanted, strict=True))


def test_a_step_stays_on_the_path():
    seen = []

    def answer(batch, want):
        seen.append(batch["t"])
        return {"velocity": batch["x"] * batch["t"][:, None]}

    student, step = Player("student", frozen(), answer=answer), Player("step", frozen(), DifferenceStep(0.1, 0.0))
    players = Players({"student": student, "step": step})
    batch = states().with_(t=torch.linspace(0.85, 1.0, 16, dtype=torch.float64))
    mean_velocity_by_difference()(players, batch)
    assert all(float(t.max()) <= 1 for t in seen) and len(seen) == 2


def test_a_net_that_no_step_fits_is_refused():
    batch = Batch({"x": torch.randn(8, 2)})
    with pytest.raises(BadValue, match="no step of a difference quotient"):
        build({"student": frozen(), "step": built(difference_step())}, {"student": Rough()}, batch)
