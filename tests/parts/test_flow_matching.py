"""Flow matching: every path as a weight and a density on one, samplers of a path, losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue
from limbeck.parts.flow_matching import (
    diffusion_path,
    flow_matching,
    huber_matching,
    on_path,
    path_sample,
    path_states,
    path_weight,
    straight_path,
    vp_linear,
)
from limbeck.parts.levels import u_shaped_levels
from limbeck.parts.pairs import straight_states
from limbeck.parts.solver import midpoint
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

PATHS = {"straight": straight_path(sigma_min=0.1), "diffusion": diffusion_path()}
each = pytest.mark.parametrize("name", PATHS)
MIX = Mixture(torch.ones(2), torch.tensor([[1.0, 0.5], [-1.0, 0.0]]), 0.3)


def cast(name: str, student: torch.nn.Module) -> Players:
    nets = {"student": student, "path": PATHS[name](None, None)}
    return Players({n: Player(n, frozen(), net) for n, net in nets.items()})


def data(n: int = 256, seed: int = 0) -> Batch:
    return Batch({"x": MIX.sample(n, seed)[0].double()}, rng=Rng(("flow", seed), torch.arange(n)))


@pytest.mark.parametrize("most", [3.0, 3.0 + 1e-9, 20.0])
def test_the_time_of_a_ratio_is_found_for_a_constant_rate_too(most: float) -> None:
    path, u = vp_linear(3.0, most), torch.linspace(0.05, 1, 20, dtype=torch.float64)
    torch.testing.assert_close(path.time(path.sigma(u) / path.alpha(u)), u, rtol=1e-9, atol=0)


@pytest.mark.parametrize("rates", [(0.0, 1.0), (2.0, 1.0), (-1.0, 3.0)])
def test_a_rate_that_falls_is_refused(rates: tuple[float, float]) -> None:
    with pytest.raises(BadValue, match="must be positive and not fall"):
        vp_linear(*rates)


@each
def test_the_loss_is_that_of_the_paper_on_its_own_path(name: str) -> None:
    # by the paper's formulas alone: u(x | x0) = (s' / s) (x - a x0) + a' x0, at the time that belongs to each level
    players = cast(name, fresh(0, 2).double())
    seen = path_states(least=0.05)(players, data())
    own = players.path.module
    u = own.path.time(seen.t / (1 - seen.t))
    a, s = own.path.alpha(u)[:, None], own.path.sigma(u)[:, None]
    h = 1e-6
    da, ds = ((f(u + h) - f(u - h))[:, None] / (2 * h) for f in (own.path.alpha, own.path.sigma))
    x = seen.x * (a + s)
    wanted = ds / s * (x - a * seen.real) + da * seen.real
    got = on_path(players.student, own)(Batch({"x": x, "t": u}), "velocity")
    loss = path_weight()(players, seen) * flow_matching()(players, seen.with_(x=seen.x))
    torch.testing.assert_close(loss, (got - wanted).square().sum(1), rtol=1e-5, atol=1e-7)


@each
def test_the_gradient_of_the_conditional_loss_is_that_of_the_marginal_one(name: str) -> None:
    # theorem 2 of the paper, on exact fields
    net = fresh(3, 2, width=16, depth=1).double()
    players = cast(name, net)
    seen = path_states(least=0.05)(players, data(40_000))
    exact = seen.with_(velocity=MIX.velocity(seen.x, seen.t), x=seen.x)
    grads = []
    for batch in (seen, exact):
        loss = (path_weight()(players, batch) * flow_matching()(players, batch)).mean()
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]))
    assert torch.cosine_similarity(*grads, dim=0) > 0.999


@each
def test_the_field_of_a_path_carries_noise_to_the_data(name: str) -> None:
    # exact field of one Gaussian: whatever the path, the solver of order 2 ends at m + std z
    one = ExactField(Mixture(torch.ones(1), torch.tensor([[0.7, -0.3]]), 0.4))
    x = path_sample(solver=midpoint(), steps=100)(cast(name, one), data())
    z = data().rng.normal("z", 2).double()
    # the straight path stops at the noise sigma_min, and that of diffusion keeps a little of the datum at its start
    left = 0.1 if name == "straight" else 0.0
    expected = torch.tensor([0.7, -0.3]) + math.hypot(0.4, left) * z
    torch.testing.assert_close(x, expected.double(), atol=0.03, rtol=0)


def test_straight_times_are_those_of_the_path_and_diffusion_curves_match_their_rate() -> None:
    u = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    for own in (p(None, None) for p in PATHS.values()):
        torch.testing.assert_close(own.path.time(own.path.sigma(u) / own.path.alpha(u).clamp(min=1e-12))[:-1], u[:-1])
    a, s = vp_linear(0.1, 20.0).alpha(u), vp_linear(0.1, 20.0).sigma(u)
    torch.testing.assert_close(a.square() + s.square(), torch.ones_like(u))
    beta = 0.1 + 19.9 * u  # d log a / du = -beta / 2
    torch.testing.assert_close(vp_linear(0.1, 20.0).slopes(u)[0] / a, -beta / 2)
    with pytest.raises(BadValue, match="sigma_min"):
        straight_path(sigma_min=1.0)(None, None)


def test_the_loss_of_huber_is_square_near_and_straight_far() -> None:
    def loss(r: float) -> Tensor:
        student = Player("student", frozen(), answer=lambda b, w: {"velocity": torch.full((1, 4), r).double()})
        return huber_matching(c=0.5)(Players({"student": student}), Batch({"velocity": torch.zeros(1, 4).double()}))

    # |r| = 2 r_1; k = 2: near 0 it is |r|^2 / (2 k d), far |r| / d - k / d
    assert float(loss(0.01)) == pytest.approx(4e-4 / 16, rel=1e-3)
    assert float(loss(1000.0)) == pytest.approx(2000 / 4 - 2 / 4, rel=1e-3)
    assert loss(0.0).tolist() == [0.0]


def test_u_shaped_levels_make_pairs_at_both_ends() -> None:
    pair = data(4_000).with_(e=torch.zeros(4_000, 2, dtype=torch.float64))
    t = straight_states(levels=u_shaped_levels(steepness=4.0))(None, pair).t
    # the density is that of cosh(4 (t - 1/2)), whose mass within 1/4 of the middle is sinh(1) / sinh(2)
    inside = float(((t - 0.5).abs() < 0.25).double().mean())
    assert inside == pytest.approx(math.sinh(1) / math.sinh(2), abs=0.03)
    assert float(t.mean()) == pytest.approx(0.5, abs=0.03)
