"""Flow maps: the three conditions on an exact map, their derivatives and stopped gradients, weights and sampling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.beds._nets import fresh
from limbeck.parts.flow_matching import flow_matching
from limbeck.parts.flowmap import (
    any_step,
    eulerian,
    lagrangian,
    log_weight,
    off_diagonal,
    on_diagonal,
    semigroup,
    triangle_states,
)
from limbeck.parts.jvp import jvp
from limbeck.parts.optimizer import sgd
from limbeck.players import Players, build
from limbeck.probes.trajectory import exact_ends, trajectory_error
from limbeck.rng import Rng
from limbeck.roles import built, learning

CONDITIONS = {"lagrangian": lagrangian(), "eulerian": eulerian(), "mid": semigroup(), "any": semigroup(low=0, high=1)}
each = pytest.mark.parametrize("name", CONDITIONS)


class ExactMap(nn.Module):
    """The flow map of N(mean, std^2): x_s = (1 - s) m + sd_s / sd_t (x_t - (1 - t) m), as an average velocity.

    sd_s - sd_t = (var_s - var_t) / (sd_s + sd_t) leaves no division by s - t. `wrong` bends it.
    """

    def __init__(self, mean: float, std: float, wrong: float = 0.0) -> None:
        super().__init__()
        self.mean, self.c = mean, std**2
        self.wrong = nn.Parameter(torch.tensor(wrong, dtype=torch.float64))

    def sd(self, t: Tensor) -> Tensor:
        return ((1 - t).square() * self.c + t.square()).sqrt()

    def forward(self, batch, want):
        x, t, s = batch["x"], batch["t"][:, None], batch["s"][:, None]
        growth = (s + t - self.c * (2 - s - t)) / (self.sd(s) + self.sd(t))
        u = (x - (1 - t) * self.mean) / self.sd(t) * growth - self.mean
        return {"velocity": u + self.wrong * (t - s) * x.square()}


class Net(nn.Module):
    """A small smooth net with a weight for each thing that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 16, dtype=torch.float64), nn.Linear(16, 2, dtype=torch.float64)

    def forward(self, batch, want):
        return {
            "velocity": self.b(torch.tanh(self.a(torch.cat((batch["x"], batch["t"][:, None], batch["s"][:, None]), 1))))
        }


def cast(student: nn.Module, batch: Batch) -> Players:
    players = build({"student": learning(sgd()), "weights": built(log_weight(), sgd())}, {"student": student}, batch)
    players["weights"].module.double()
    players.turn("test", ("student", "weights"))
    return players


def states(n: int = 32, dim: int = 1, seed: int = 0, diagonal: float = 0.0) -> Batch:
    rows = torch.arange(n)
    x = torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return triangle_states(diagonal=diagonal)(None, Batch({"x": x}, rng=Rng(("test", seed), rows)))


@each
@given(mean=st.floats(-2, 2), std=st.floats(0.1, 3), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_an_exact_map_meets_every_condition(name: str, mean: float, std: float, seed: int) -> None:
    batch = states(seed=seed)
    loss = CONDITIONS[name](cast(ExactMap(mean, std), batch), batch)
    assert loss.shape == (32,) and loss.max() < 1e-18


@each
def test_a_bent_map_meets_none(name: str) -> None:
    batch = states()
    assert CONDITIONS[name](cast(ExactMap(0.3, 0.5, wrong=0.1), batch), batch).mean() > 1e-5


def test_the_exact_map_is_the_exact_field_and_its_flow() -> None:
    # the reference used here against the bed's field and its ODE solver
    batch, mix = states(), Mixture(torch.ones(1), torch.full((1, 1), 0.4), 0.6)
    players = cast(ExactMap(0.4, 0.6), batch)
    v = players.student(batch.with_(s=batch.t), "velocity")
    torch.testing.assert_close(v, mix.velocity(batch.x, batch.t))
    u = players.student(batch, "velocity")
    torch.testing.assert_close(
        batch.x + (batch.s - batch.t)[:, None] * u, mix.flow_map(batch.x, batch.t, batch.s), atol=1e-7, rtol=0
    )


# -- derivatives ------------------------------------------------------------------------------------------------------


def test_the_derivative_is_that_of_finite_differences_and_of_double_backward() -> None:
    net = Net()
    b = states(8, 2)
    f = lambda x, t: net({"x": x, "t": t, "s": b.s}, frozenset())["velocity"]  # noqa: E731
    dx = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    dt = torch.full_like(b.t, 0.7)
    value, slope = jvp(f, (b.x, b.t), (dx, dt))
    h = 1e-6
    torch.testing.assert_close(value, f(b.x, b.t))
    torch.testing.assert_close(
        slope, (f(b.x + h * dx, b.t + h * dt) - f(b.x - h * dx, b.t - h * dt)) / (2 * h), atol=1e-8, rtol=1e-6
    )
    # J d is the slope of the linear function v -> J' v in the direction v: two backward passes
    x, t = b.x.clone().requires_grad_(), b.t.clone().requires_grad_()
    v = torch.zeros(8, 2, dtype=torch.float64, requires_grad=True)
    back = torch.autograd.grad(f(x, t), (x, t), v, create_graph=True)
    (twice,) = torch.autograd.grad((back[0] * dx).sum() + (back[1] * dt).sum(), v, create_graph=True)
    torch.testing.assert_close(slope, twice)
    # and so are the gradients of both with respect to the weights
    for one, two in zip(
        *(torch.autograd.grad(s.square().sum(), net.parameters(), allow_unused=True) for s in (slope, twice)),
        strict=True,
    ):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two)


def test_attention_has_a_derivative_too() -> None:
    # the fused kernels have no forward rule; the plain one is taken
    q = torch.randn(2, 3, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = lambda a: F.scaled_dot_product_attention(a, q, q)  # noqa: E731
    _, slope = jvp(f, (q,), (q,))
    torch.testing.assert_close(slope, (f(q * (1 + 1e-6)) - f(q * (1 - 1e-6))) / 2e-6, atol=1e-8, rtol=1e-6)


# -- gradients --------------------------------------------------------------------------------------------------------


def by_hand(name: str, net: Net, held: Net, b: Batch) -> Tensor:
    """The condition; all that teaches comes from another net of the same weights; slopes by backward passes."""

    def u(net: Net, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return net({"x": x, "t": t, "s": s}, frozenset())["velocity"]

    def slope(answer: Tensor, at: Tensor) -> Tensor:
        return torch.stack([torch.autograd.grad(answer[:, d].sum(), at, create_graph=True)[0] for d in range(2)], 1)

    x, t, s = (b[k].clone().requires_grad_() for k in ("x", "t", "s"))
    way = (s - t)[:, None]
    jumped = x + way * u(net, x, t, s)
    if name == "lagrangian":
        return (slope(jumped, s) - u(held, (x + way * u(held, x, t, s)).detach(), s, s)).square().sum(1)
    if name == "eulerian":
        jacobian = slope((x + way * u(held, x, t, s)), x)  # rows: outputs, columns: x
        return (slope(jumped, t) + torch.einsum("bij,bj->bi", jacobian, u(held, x, t, t))).square().sum(1)
    r = (t + s) / 2
    first = u(held, x, t, r)
    second = u(held, x + (r - t)[:, None] * first, r, s)
    return (u(net, x, t, s) - (first + second) / 2).square().sum(1)


@pytest.mark.parametrize("name", ["lagrangian", "eulerian", "mid"])
def test_gradients_stop_where_the_maths_says(name: str) -> None:
    b = states(16, 2)
    net, held = Net(), Net()
    held.load_state_dict(net.state_dict())
    loss = CONDITIONS[name](cast(net, b), b)
    reference = by_hand(name, net, held.requires_grad_(False), b)
    torch.testing.assert_close(loss, reference)
    # the last bias falls out of no condition's gradient only where the reference says so
    for ours, theirs in zip(
        *(torch.autograd.grad(v.mean(), list(net.parameters())) for v in (loss, reference)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    assert torch.autograd.grad(CONDITIONS[name](cast(net, b), b).mean(), net.a.weight)[0].norm() > 1e-4


# -- states, weights, sampling ----------------------------------------------------------------------------------------


@given(share=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_states_lie_on_the_triangle_and_on_the_path(share: float, seed: int) -> None:
    b = states(2_000, 2, seed, share)
    on = b.s == b.t
    assert (b.s <= b.t).all() and b.s.min() > 0 and b.t.max() < 1
    assert abs(float(on.double().mean()) - share) < 0.06
    # the uniform triangle has E t = 2/3 and E s = 1/3; the diagonal 1/2
    if share < 0.5:
        assert abs(float(b.t[~on].mean()) - 2 / 3) < 0.05 and abs(float(b.s[~on].mean()) - 1 / 3) < 0.05
    # at the end of the straight line through x with slope `velocity` lies the noise
    noise = b.x + (1 - b.t)[:, None] * b.velocity
    assert abs(float(noise.mean())) < 0.1 and abs(float(noise.std()) - 1) < 0.1


def test_each_row_is_taught_by_one_term_and_weighed_by_its_size() -> None:
    b = states(64, 2, diagonal=0.5)
    players = cast(Net(), b)
    on, off = on_diagonal()(players, b), off_diagonal()(players, b)
    diagonal = b.s == b.t
    # the weights are 1 at first
    torch.testing.assert_close(on, flow_matching()(players, b).where(diagonal, 0.0))
    torch.testing.assert_close(off, lagrangian()(players, b).where(~diagonal, 0.0))
    # e^-w L + w is least where w = log L
    players["weights"].module.net[2].bias.data.fill_(0.3)
    w = torch.tensor(0.3, dtype=torch.float64)
    expected = (-w).exp() * flow_matching()(players, b) + w
    torch.testing.assert_close(on_diagonal()(players, b)[diagonal], expected[diagonal])
    assert on_diagonal()(players, states(8, 2, diagonal=0.0)).eq(0).all()


def test_an_exact_map_samples_the_same_by_any_steps() -> None:
    b = states()
    players = cast(ExactMap(0.4, 0.6), b)
    z = b.rng.normal("z", 1).double()
    for times in ((1.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.9, 0.3, 0.1, 0.0)):
        torch.testing.assert_close(any_step(times=times)(players, b), 0.4 + 0.6 * z)


def test_a_point_field_is_a_map_that_ends_at_data_when_no_level_is_asked() -> None:
    net, b = fresh(0, 2), states(16, 2)
    b = Batch({k: c.float() for k, c in b.columns.items()})
    plain = net({"x": b.x, "t": b.t}, frozenset({"velocity"}))["velocity"]
    down = net({"x": b.x, "t": b.t, "s": 0 * b.s}, frozenset({"velocity"}))["velocity"]
    torch.testing.assert_close(plain, down)
    # every pair of levels looks different
    t, s = torch.rand(2, 4000, generator=torch.Generator().manual_seed(0)).sort(0, descending=True).values
    w = net.frequencies[0]
    seen = torch.stack(((w * t).sin() + (w * s).sin(), (w * t).cos() + 1 - (w * s).cos()), 1)
    near = torch.cdist(seen, seen) + torch.eye(4000)
    closest = near.argmin(1)
    assert (torch.stack((t - t[closest], s - s[closest])).abs().amax(0) < 0.1).all()


class Oracle(nn.Module):
    """The exact flow map of a mixture as a student."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.field = ExactField(mixture)

    def forward(self, batch, want):
        end = self.field(batch, frozenset({"flow_map"}))["flow_map"]
        return {"velocity": (end - batch["x"]) / (batch["s"] - batch["t"])[:, None]}


def test_the_exact_flow_has_no_trajectory_error_and_noise_has_the_distance() -> None:
    from limbeck.beds import load_bed

    bed = load_bed("mog8")
    data = bed.data(0)
    b = Batch({"x": torch.zeros(1, 2)})
    exact = build({"student": learning(sgd())}, {"student": Oracle(bed.players["oracle"](0).mixture)}, b)
    assert trajectory_error(rows=50)(exact, data) < 1e-8

    class Still(nn.Module):
        def forward(self, batch, want):
            return {"velocity": torch.zeros_like(batch["x"])}

    still = build({"student": learning(sgd())}, {"student": Still()}, b)
    key = data["test"].fingerprint
    z = Rng(("trajectory", key), torch.arange(50)).normal("z", 2)
    expected = float((z - exact_ends("mog8", key, 50, 2)).square().sum(1).mean())
    assert abs(trajectory_error(rows=50)(still, data) - expected) < 1e-5
