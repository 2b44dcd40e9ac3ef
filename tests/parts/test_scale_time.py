"""Bespoke solvers: the rule they begin as, their order under any smooth change, and the bound of their error."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.errors import BadValue
from limbeck.parts.plan import planned_start
from limbeck.parts.scale_time import Knots, exact_path, rmse_bound, scale_time, scaled_midpoint
from limbeck.parts.solver import even, midpoint, shifted
from limbeck.players import Players, build
from limbeck.roles import built, frozen


def cast(times=even(4), mixture: Mixture | None = None, rows: int = 64) -> tuple[Players, Batch]:
    net = ExactField(mixture) if mixture else load_bed("mog5").players["oracle"](0)
    batch = Batch({"x": torch.zeros(rows, 2, dtype=torch.float64)})
    players = build({"student": frozen(), "solver": built(scale_time(times=times))}, {"student": net}, batch)
    players["solver"].module.double()
    return players, batch


@pytest.mark.parametrize("times", [even(4), shifted(4, 0.5)])
def test_at_first_it_is_the_midpoint_rule_on_its_times(times) -> None:
    players, batch = cast(times)
    start = planned_start(players, batch)
    grid = torch.tensor(times, dtype=torch.float64).expand(64, -1)
    for a, b in zip(scaled_midpoint()(players, start), midpoint()(players, start.with_(grid=grid)), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert sum(p.numel() for p in players.solver.module.parameters()) == 8 * 4  # one of them, a factor, is idle


def smooth(n: int, rows: int) -> Knots:
    """t = 1 - r / 2 - r^2 / 2, c = 1 + r^2, and their slopes."""
    r = torch.linspace(0, 1, 2 * n + 1, dtype=torch.float64)
    t = 1 - 0.5 * r - 0.5 * r**2
    return Knots(*(k.expand(rows, -1) for k in (t, -0.5 - r, 1 + r**2, 2 * r)))


def test_order_two_is_kept_under_a_smooth_change() -> None:
    players, batch = cast(mixture=Mixture(torch.ones(2), torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.5))
    z = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = torch.ones(64, dtype=torch.float64)
    exact = players.student(batch.with_(x=z, t=one, s=0 * one), "flow_map")
    errors = []
    for n in (20, 40, 80):
        x, knots = z, smooth(n, 64)
        for i in range(n):
            x = knots.step(lambda y, t: players.student(batch.with_(x=y, t=t), "velocity"), x, i)
        errors.append(float((x - exact).norm()))
    assert (torch.tensor(errors).log2().diff().neg() - 2).abs().max() < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_bounds_the_error_for_a_true_lipschitz_constant(seed: int) -> None:
    std = 0.4  # v = (t - (1 - t) std^2) / ((1 - t)^2 std^2 + t^2) (x - mean) + const: L is the largest quotient
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    lipschitz = float(((t - (1 - t) * std**2) / ((1 - t).square() * std**2 + t.square())).abs().max())
    players, batch = cast(mixture=Mixture(torch.ones(1), torch.ones(1, 2), std))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in players.solver.module.parameters():
            p += 0.3 * torch.randn(p.shape, dtype=p.dtype, generator=generator)
    states = exact_path(merge=40)(players, batch)
    bound = rmse_bound(lipschitz=lipschitz)(players, states)
    error = (scaled_midpoint()(players, states)[-1] - states.path[:, -1]).norm(dim=1) / 2**0.5
    assert (bound >= error - 1e-9).all() and (error > 1e-3).any()


def test_the_growth_of_a_step_is_reached_by_a_field_that_pushes_apart() -> None:
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    for n in (2, 5):
        knots = smooth(n, 1)
        for i in range(n):
            ratio = knots.step(lambda y, t: -3.0 * y, x, i) / x
            assert torch.allclose(ratio, knots.growth(i, 3.0)[:, None].expand_as(x))
            assert (knots.step(lambda y, t: 3.0 * y, x, i) / x).abs().max() < knots.growth(i, 3.0)


def test_the_loss_leads_times_along_the_path() -> None:
    players, batch = cast()
    states = exact_path()(players, batch)
    players.turn("test", ("solver",))
    rmse_bound()(players, states).sum().backward()
    analytic = players.solver.fall.grad[2].item()
    values = []
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            players.solver.fall[2] += shift
        values.append(rmse_bound()(players, states).sum().item())
        with torch.no_grad():
            players.solver.fall[2] -= shift
    assert analytic == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("times", [(1.0, 0.5), (0.9, 0.0), (1.0, 0.2, 0.5, 0.0)])
def test_times_that_do_not_fall_from_noise_to_data_are_refused(times) -> None:
    with pytest.raises(BadValue, match="falls from 1 to 0"):
        scale_time(times=times)(None, Batch({"x": torch.zeros(1, 2)}))
