"""Bridges: against the papers' own formulas, Gaussian conditioning by NumPy, SciPy's integrator and exact mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import ot
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import limbeck
from limbeck.adapters.bridge import BridgeField
from limbeck.adapters.data import open_data
from limbeck.adapters.field import Field
from limbeck.batch import Batch
from limbeck.beds._mixture import Mixture
from limbeck.data import Source
from limbeck.errors import BadValue, Mismatch, UnknownName
from limbeck.loop import Loop, Options
from limbeck.override import override
from limbeck.part import terms
from limbeck.parts.bridge import (
    Bridge,
    BridgeHead,
    bridge_levels,
    bridge_states,
    bridge_times,
    bridge_velocity_head,
    brownian,
    displacement_head,
    from_bridge,
    head_weight,
    lifted,
    skip_head,
    state_spread,
    to_bridge,
)
from limbeck.parts.flow_matching import flow_matching, vp_linear
from limbeck.parts.levels import logit_normal_levels
from limbeck.parts.optimizer import adam
from limbeck.parts.pairs import end_matching, straight_states
from limbeck.parts.path import EDM, RF, TRIG, VP_COSINE, data_head, eps_head, score_head
from limbeck.parts.solver import dpm_multistep, ode_sample, sde, solve, third
from limbeck.parts.states import uniform_levels
from limbeck.players import Player, Players
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.rng import Rng
from limbeck.roles import frozen, learning
from limbeck.run import Run

BRIDGES = {
    "brownian": brownian(),
    "quiet": brownian(0.2),
    "ve": Bridge(EDM, 2.0),
    "ve80": Bridge(EDM, 80.0),
    "vp": Bridge(vp_linear(0.1, 2.0)),
    "trig": Bridge(TRIG, 1.2),
}
each = pytest.mark.parametrize("name", BRIDGES)
WANTS = frozenset({"x0", "eps", "velocity", "score"})
SPREADS = (0.6, 1.1, 0.3)  # deviations of data and source, and their covariance

# what the datum may be depends on the source: each of two points leads to two of four modes
MIX = Mixture(torch.ones(4), torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.5, -0.5]]), 0.25)
POINTS = torch.tensor([[2.0, 0.0], [-2.0, 0.5]], dtype=torch.float64)


def posterior(x: Tensor, source: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """E[x0] and E[z] behind a x0 + b x1 + c z, by the mixture that goes with the source."""
    right = source[:, :1] > 0
    mine = MIX.among(torch.cat((right, right, ~right, ~right), 1))
    return mine.posterior(x - b[:, None] * source, a, c)


def paper(bridge: Bridge, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers of x0, x1 and z by the signal-to-noise ratios, as DDBM has them."""
    end = torch.full_like(u, bridge.end)
    (a, s), (a1, s1) = ((bridge.path.alpha(v), bridge.path.sigma(v)) for v in (u, end))
    share = (a1 / s1) ** 2 / (a / s) ** 2
    return a * (1 - share), share * a / a1, s * (1 - share).sqrt()


def slopes(bridge: Bridge, u: Tensor) -> tuple[Tensor, ...]:
    """The numbers of x0, x1 and z in the velocity: `paper` differentiated by autograd in the bridge's own time."""
    u = u.detach().requires_grad_()
    return tuple(torch.autograd.grad(paper(bridge, u)[k].sum(), u)[0] for k in range(3))


def of_skip(bridge: Bridge, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The raw output of DDBM's net, (x0 - c_skip x) / c_out, by the c's of its preconditioning."""
    (a, b, c), (d0, d1, cov) = paper(bridge, u), SPREADS
    c_in = 1 / (b**2 * d1**2 + a**2 * d0**2 + 2 * a * b * cov + c**2).sqrt()
    c_skip = (b * cov + a * d0**2) * c_in**2
    c_out = (b**2 * (d1**2 * d0**2 - cov**2) + d0**2 * c**2).sqrt() * c_in
    torch.testing.assert_close(1 / c_in, state_spread(bridge, bridge.level(u), *SPREADS))
    return (1 - c_skip * a) / c_out, -c_skip * b / c_out, -c_skip * c / c_out


def of_displacement(bridge: Bridge, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (a, b, c), s = paper(bridge, u), bridge.path.sigma(u)
    return (a - 1) / s, b / s, c / s


Numbers = Callable[[Bridge, Tensor], tuple[Tensor, ...]]
HEADS: dict[str, tuple[BridgeHead, Numbers]] = {
    "x0": (lifted(data_head), lambda _, u: (u / u, 0 * u, 0 * u)),
    "eps": (lifted(eps_head), lambda _, u: (0 * u, 0 * u, u / u)),
    "score": (lifted(score_head), lambda bridge, u: (0 * u, 0 * u, -1 / paper(bridge, u)[2])),
    "velocity": (bridge_velocity_head, slopes),
    "displacement": (displacement_head, of_displacement),
    "skip": (skip_head(*SPREADS), of_skip),
}


def exact(bridge: Bridge, head: str = "x0") -> BridgeField:
    """What a perfect net of that bridge and head says, straight from the papers."""

    def call(net: nn.Module, x: Tensor, u: Tensor, batch: Mapping[str, Any]) -> Tensor:
        source, u = batch["source"].double(), u.double().clamp(max=(1 - 1e-9) * bridge.end)
        x0, z = posterior(x.double(), source, *paper(bridge, u))
        p, o, q = HEADS[head][1](bridge, u)
        return (p[:, None] * x0 + o[:, None] * source + q[:, None] * z).to(x)

    return BridgeField(nn.Identity(), bridge, HEADS[head][0], call)


def players(net: nn.Module) -> Players:
    return Players({"student": Player("student", frozen(), net)})


def pairs(n: int, seed: int = 0) -> Batch:
    x, mode = MIX.sample(n, seed)
    return Batch({"x": x.double(), "source": POINTS[(mode > 1).long()]}, rng=Rng(("bridge", seed), torch.arange(n)))


# -- the law ----------------------------------------------------------------------------------------------------------


@each
def test_the_curves_are_those_of_the_paper_and_times_there_and_back(name: str) -> None:
    bridge = BRIDGES[name]
    u = bridge.end * torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    t = bridge.level(u)
    torch.testing.assert_close(bridge.time(t), u, rtol=1e-10, atol=0)
    found = torch.stack([bridge.alpha(t), bridge.source(t), bridge.sigma(t)])
    torch.testing.assert_close(found, torch.stack(paper(bridge, u)), rtol=1e-9, atol=1e-12)
    x, source = (torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    back = from_bridge(bridge, *to_bridge(bridge, x, t, source), source)
    torch.testing.assert_close(back, (x, t), rtol=1e-8, atol=1e-8)


@each
def test_a_bridge_is_its_path_conditioned_on_the_end(name: str) -> None:
    # x_u and x_T given x0 are jointly Gaussian: mean and variance of x_u given x_T, by NumPy
    bridge, x0, x1 = BRIDGES[name], 0.7, -1.3
    for share in (0.1, 0.5, 0.9):
        u = torch.tensor([share * bridge.end, bridge.end], dtype=torch.float64)
        a, s = bridge.path.alpha(u).numpy(), bridge.path.sigma(u).numpy()
        k = a[1] / a[0]
        cov = np.array([[s[0] ** 2, k * s[0] ** 2], [k * s[0] ** 2, s[1] ** 2]])
        mean = a[0] * x0 + cov[0, 1] / cov[1, 1] * (x1 - a[1] * x0)
        variance = cov[0, 0] - cov[0, 1] ** 2 / cov[1, 1]
        t = bridge.level(u[:1])
        found = bridge.alpha(t) * x0 + bridge.source(t) * x1
        np.testing.assert_allclose((float(found), float(bridge.sigma(t)) ** 2), (mean, variance), rtol=1e-9)


def test_the_brownian_bridge_is_that_of_i2sb() -> None:
    u, g = torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 0.7
    t, past, rest = brownian(g).level(u), g**2 * u, g**2 * (1 - u)  # sigma_t^2 and its counterpart from the other end
    truth = torch.stack((rest / (past + rest), past / (past + rest), (past * rest / (past + rest)).sqrt()))
    found = torch.stack([curve(t) for curve in (brownian(g).alpha, brownian(g).source, brownian(g).sigma)])
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=0)


def test_without_noise_the_brownian_bridge_is_the_line_of_rectified_flow() -> None:
    rows = pairs(64)
    line = straight_states()(None, rows.with_(e=rows.source))
    for g in (1e-3, 1e-6):
        bridge = brownian(g)
        t = bridge.level(line.t)
        z = rows.rng.normal("z", 2).double()
        x = (1 - t[:, None]) * rows.x + t[:, None] * z
        there, u = to_bridge(bridge, x, t, rows.source)
        torch.testing.assert_close(u, line.t)
        torch.testing.assert_close(there, line.x, rtol=0, atol=3 * g)
        p, o, q = bridge_velocity_head(bridge, t)
        slope = p[:, None] * rows.x + o[:, None] * rows.source + q[:, None] * z
        torch.testing.assert_close(slope[8:40], line.velocity[8:40], rtol=0, atol=200 * g)
    with pytest.raises(BadValue, match="straight_states"):
        brownian(0.0)


# -- change of path ---------------------------------------------------------------------------------------------------


@each
def test_if_the_source_is_the_end_of_the_path_the_states_are_those_of_the_path(name: str) -> None:
    # x1 = a_T x0 + s_T e: Doob's transform, mixed over its ends, gives the process back
    bridge = BRIDGES[name]
    u = bridge.end * torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    t = bridge.level(u)
    a, b, c = bridge.alpha(t), bridge.source(t), bridge.sigma(t)
    torch.testing.assert_close(a + b * bridge.tip[0], bridge.path.alpha(u))
    torch.testing.assert_close(b.square() * bridge.tip[1] ** 2 + c.square(), bridge.path.sigma(u).square())


@pytest.mark.parametrize("path", [RF, VP_COSINE])
def test_an_end_without_signal_is_no_bond_and_the_bridge_is_the_plain_path(path: Any) -> None:
    # a Gaussian source that knows nothing of the datum: the field is that of the path, whatever the source
    bridge, t = Bridge(path), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    x = torch.randn(19, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def call(net: nn.Module, x: Tensor, u: Tensor, batch: Any) -> Tensor:
        return MIX.posterior(x, path.alpha(u), path.sigma(u))[1]

    plain = Field(nn.Identity(), path, eps_head, call)({"x": x, "t": t}, WANTS)
    for source in (torch.zeros(19, 2, dtype=torch.float64), 3 * x.flip(0)):
        found = BridgeField(nn.Identity(), bridge, lifted(eps_head), call)({"x": x, "t": t, "source": source}, WANTS)
        for want in WANTS:
            torch.testing.assert_close(found[want], plain[want], rtol=1e-9, atol=1e-9)


def test_a_brownian_bridge_to_independent_noise_is_a_gaussian_path() -> None:
    # variance u^2 + g^2 u (1 - u) beside (1 - u) x0; a Kolmogorov-Smirnov test would see far larger errors
    u = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    t = brownian(1.0).level(u)
    torch.testing.assert_close(brownian(1.0).alpha(t), 1 - u)
    torch.testing.assert_close(brownian(1.0).source(t).square() + brownian(1.0).sigma(t).square(), u)


# -- heads and loss ---------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("head", HEADS)
def test_every_head_of_every_bridge_is_the_field_of_the_data_that_go_with_the_source(name: str, head: str) -> None:
    t = torch.linspace(0.05, 0.95, 40, dtype=torch.float64)
    x = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    source = POINTS[torch.arange(40) % 2]
    found = exact(BRIDGES[name], head)({"x": x, "t": t, "source": source}, WANTS)
    x0, eps = posterior(x, source, 1 - t, 0 * t, t)  # on the path of rectified flow the source shifts nothing
    truth = {"x0": x0, "eps": eps, "velocity": eps - x0, "score": -eps / t[:, None]}
    for want in WANTS:
        assert ((found[want] - truth[want]).abs().amax(1) / truth[want].abs().amax(1)).max() < 1e-8, want


@each
@pytest.mark.parametrize("head", HEADS)
def test_the_weighted_loss_is_the_error_of_what_the_net_predicts(name: str, head: str) -> None:
    bridge = BRIDGES[name]
    net = BridgeField(nn.Identity(), bridge, HEADS[head][0], lambda net, x, u, batch: (3 * x).cos())
    states = bridge_states(levels=bridge_levels(low=0.2, high=0.8))(players(net), pairs(100))
    loss = head_weight()(players(net), states) * end_matching()(players(net), states)
    there, u = to_bridge(bridge, states.x, states.t, states.source)
    a, b, c = (k[:, None] for k in paper(bridge, u))
    p, o, q = (k[:, None] for k in HEADS[head][1](bridge, u))
    z = (there - a * states.real - b * states.source) / c
    wanted = p * states.real + o * states.source + q * z
    torch.testing.assert_close(loss, ((3 * there).cos() - wanted).square().sum(1), rtol=1e-6, atol=1e-6)


def test_states_are_drawn_at_even_times_and_follow_the_bridge() -> None:
    net, rows = exact(BRIDGES["ve"]), pairs(4000)
    states = bridge_states()(players(net), rows)
    there, u = to_bridge(net.bridge, states.x, states.t, states.source)
    a, b, c = (k[:, None] for k in paper(net.bridge, u))
    z = (there - a * rows.x - b * rows.source) / c
    assert abs(float(z.mean())) < 0.05 and abs(float(z.std()) - 1) < 0.03
    assert abs(float(u.mean()) - 1) < 0.03 and 0 < float(u.min()) < 0.02 and 1.98 < float(u.max()) < 2
    assert torch.equal(states.real, rows.x) and torch.equal(states.source, rows.source)
    # the exact field is the best one on average: no other prediction has a smaller error
    losses = {
        k: float(flow_matching()(players(f), states.with_()).mean()) for k, f in {"exact": net, "far": Off(net)}.items()
    }
    assert losses["exact"] < losses["far"]
    levels = bridge_states(levels=logit_normal_levels(mean=-1.2, std=1.2))(players(net), rows).t
    assert abs(float((levels / (1 - levels)).log().mean()) + 1.2) < 0.1


class Off(nn.Module):
    """A field beside the truth."""

    def __init__(self, field: BridgeField) -> None:
        super().__init__()
        self.field = field

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, Tensor]:
        return {k: v + 0.2 for k, v in self.field(batch, want).items()}


# -- sampling ---------------------------------------------------------------------------------------------------------


@each
def test_the_stochastic_step_is_the_posterior_of_the_process(name: str) -> None:
    # q(x_s | x_u, x0) by Gaussian conditioning; on the Brownian bridge that is the step of I2SB
    bridge = BRIDGES[name]
    u, s = torch.full((5,), 0.7 * bridge.end), torch.full((5,), 0.4 * bridge.end)
    u, s, rows = u.double(), s.double(), pairs(5)
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    start, t = from_bridge(bridge, x, u, rows.source)
    field = exact(bridge)
    end = solve(players(field).student, rows, sde(), start, [t, bridge.level(s)])[-1]
    x0 = field(rows.with_(x=start, t=t), frozenset({"x0"}))["x0"]
    (a, v), (b, w) = ((bridge.path.alpha(k), bridge.path.sigma(k).square()) for k in (u, s))
    gain = ((a / b) * w / v)[:, None]
    mean = b[:, None] * x0 + gain * (x - a[:, None] * x0)
    std = (w - (a / b * w) ** 2 / v).sqrt()[:, None]
    truth = mean + std * rows.rng.fold(0).normal("step", 2).double()
    torch.testing.assert_close(to_bridge(bridge, end, bridge.level(s), rows.source)[0], truth, rtol=1e-6, atol=1e-6)
    if name == "brownian":
        torch.testing.assert_close(mean, (s / u)[:, None] * x + (1 - s / u)[:, None] * x0)
        torch.testing.assert_close(std, (s * (u - s) / u).sqrt()[:, None])


@pytest.mark.parametrize("name", ["brownian", "ve", "vp"])
def test_solvers_follow_the_ode_of_the_paper(name: str) -> None:
    # dx/du = f x - g^2 (grad log q(x | x1) / 2 - grad log q(x1 | x)), integrated by SciPy on the bridge itself
    bridge, rows = BRIDGES[name], pairs(4)
    path, (a1, s1) = bridge.path, bridge.tip
    grid = bridge.end * torch.linspace(0.9, 0.02, 60, dtype=torch.float64)
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def drift(time: float, flat: np.ndarray) -> np.ndarray:
        u, x = torch.full((4,), time, dtype=torch.float64), torch.from_numpy(flat).view(4, 2)
        a, s = path.alpha(u)[:, None], path.sigma(u)[:, None]
        da, ds = (k[:, None] for k in path.slopes(u))
        f, gg = da / a, 2 * s * ds - 2 * da / a * s**2
        score = -posterior(x, rows.source, *paper(bridge, u))[1] / paper(bridge, u)[2][:, None]
        pull = (a1 / a) * (rows.source - a1 / a * x) / (s1**2 - (a1 / a) ** 2 * s**2)
        return (f * x - gg * (score / 2 - pull)).numpy().ravel()

    truth = solve_ivp(drift, (float(grid[0]), float(grid[-1])), x.numpy().ravel(), rtol=1e-6, atol=1e-7).y[:, -1]
    start, _ = from_bridge(bridge, x, grid[:1].expand(4), rows.source)
    times = [bridge.level(u.expand(4)) for u in grid]
    for solver, tolerance in ((third(), 1e-4), (dpm_multistep(), 1e-2)):
        end = solve(players(exact(bridge)).student, rows, solver, start, times)[-1]
        there = to_bridge(bridge, end, times[-1], rows.source)[0]
        torch.testing.assert_close(there, torch.from_numpy(truth).view(4, 2), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["brownian", "ve80", "vp"])
@pytest.mark.parametrize("solver", [sde(), dpm_multistep()], ids=["sde", "ode"])
def test_samples_of_a_source_are_the_data_that_go_with_it(name: str, solver: Any) -> None:
    bridge, rows = BRIDGES[name], pairs(1000)
    single = Batch({k: rows[k].float() for k in ("x", "source")}, rng=rows.rng)
    times = bridge_times(bridge, 40) if name != "ve80" else bridge_times(brownian(), 40)
    drawn = ode_sample(solver=solver, times=times)(players(exact(bridge)), single)
    assert drawn.dtype == torch.float32 and bool(drawn.isfinite().all())
    for point in POINTS:
        mine = (rows.source == point).all(1)
        found, true = drawn[mine].double().numpy(), rows.x[mine].numpy()
        cost = ot.dist(found, true, metric="euclidean")
        other = MIX.sample(4000, 7)
        fresh = other[0][(other[1] > 1) == bool(point[0] < 0)][: len(true)].double().numpy()
        floor = ot.emd2([], [], ot.dist(fresh, true, metric="euclidean"))
        assert ot.emd2([], [], cost) < floor + 0.08


@each
def test_one_step_from_the_source_in_single_precision_is_what_the_net_says_there(name: str) -> None:
    # at t = 1 all states are the source; nothing is divided by the noise that is not there
    rows = pairs(8)
    single = Batch({k: rows[k].float() for k in ("x", "source")}, rng=rows.rng)
    for head in ("x0", "displacement", "skip"):
        drawn = ode_sample(solver=sde(), times=(1.0, 0.0))(players(exact(BRIDGES[name], head)), single)
        truth = MIX.means.view(2, 2, 2).mean(1)[(rows.source[:, 0] < 0).long()]  # E[x0 | x1]
        torch.testing.assert_close(drawn.double(), truth, rtol=0, atol=2e-3)


# -- use --------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A small net of a bridge, which sees state, source and time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, u: Tensor, batch: Mapping[str, Any]) -> Tensor:
        answer: Tensor = self.body(torch.cat((x, batch["source"], u[:, None]), 1))
        return answer


def fresh(noise: float = 0.5) -> BridgeField:
    torch.manual_seed(0)
    return BridgeField(Net(), brownian(noise), displacement_head, lambda net, x, u, batch: net(x, u, batch))


def trained(recipe: Recipe, rows: Source) -> Players:
    loop = Loop(recipe, {"student": fresh()}, {"train": rows}, Options(seed=10_000), Run(None, {}))
    loop.execute()
    return loop.players


@torch.no_grad()
def far(asked: Players) -> float:
    """How far samples are from the data, each beside its source: the distance of Wasserstein."""
    rows = pairs(400, seed=1)
    rows = Batch({k: rows[k].float() for k in ("x", "source")}, rng=rows.rng)
    drawn = ode_sample(solver=sde(), times=bridge_times(brownian(0.5), 10))(asked, rows)
    joint = [torch.cat((x, rows.source), 1).double().numpy() for x in (drawn, rows.x)]
    return float(ot.emd2([], [], ot.dist(*joint, metric="euclidean")))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pairs as a user has them."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.npz"
    rows = pairs(600)
    np.savez(path, x=rows.x.numpy(), source=rows.source.numpy())
    return str(path)


def test_pairs_of_a_file_train_a_net_by_the_loss_of_i2sb(file: str) -> None:
    phase = Phase("student", ("student",), terms(bridge=head_weight() * end_matching()), bridge_states())
    recipe = Recipe(
        key="bridge", title="t", paper="arXiv:2302.05872", family="f", kind="method", learns="student", teacher="none",
        players={"student": learning(adam(lr=5e-3))}, stages=(Learn("fit", (phase,), steps=150, batch_size=128),),
    )  # fmt: skip
    assert far(Players({"student": Player("student", frozen(), fresh())})) > 1
    assert far(trained(recipe, open_data(file))) < 0.5


def test_a_recipe_for_fields_trains_a_bridge_as_it_is(file: str) -> None:
    recipe = override(limbeck.load("flow-matching"), {"fit.steps": 150, "student.optimizer.lr.peak": 5e-3})
    assert far(trained(recipe, open_data(file))) < 0.5


# -- bad input --------------------------------------------------------------------------------------------------------


def test_what_is_no_bridge_is_refused() -> None:
    rows = pairs(3)
    net = exact(brownian())
    with pytest.raises(UnknownName, match="source"):
        bridge_states()(players(net), Batch({"x": rows.x}))
    with pytest.raises(Mismatch, match=r"data \(3, 2\), sources \(3, 1\)"):
        bridge_states()(players(net), rows.with_(source=rows.source[:, :1]))
    with pytest.raises(BadValue, match="student is no bridge"):
        bridge_states()(players(nn.Identity()), rows)
    with pytest.raises(BadValue, match="covariance of 2"):
        skip_head(1.0, 1.0, 2.0)
    with pytest.raises(BadValue, match="steps = 0"):
        bridge_times(brownian(), 0)
    short = BridgeField(nn.Identity(), brownian(), lifted(eps_head), lambda net, x, u, batch: x[:, :1])
    with pytest.raises(Mismatch, match=r"\(3, 1\) to states \(3, 2\)"):
        short(rows.with_(t=torch.full((3,), 0.5)), WANTS)


def test_pictures_and_half_precision_go_through() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.bfloat16)
    field = BridgeField(nn.Identity(), brownian(), lifted(data_head), lambda net, x, u, batch: x)
    states = bridge_states(levels=uniform_levels())(players(field), Batch({"x": x, "source": 1 - x}))
    assert states.x.dtype == torch.bfloat16
    answer = field(states, WANTS)
    assert {v.dtype for v in answer.values()} == {torch.bfloat16} and answer["x0"].shape == x.shape
