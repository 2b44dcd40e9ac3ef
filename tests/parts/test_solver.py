"""Solvers converge at their order to the exact flow, forwards and backwards."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.errors import BadValue
from limbeck.part import Expr
from limbeck.parts.solver import (
    ancestral,
    ddim,
    dpm_multistep,
    euler,
    even,
    heun,
    karras,
    midpoint,
    ode_sample,
    sde,
    shifted,
    solve,
    third,
)
from limbeck.players import Player, Players
from limbeck.roles import frozen

FIELD = Player("teacher", frozen(), load_bed("mog8").players["oracle"](0))
ORDERS = {
    "euler": (euler(), 1),
    "heun": (heun(), 2),
    "midpoint": (midpoint(), 2),
    "third": (third(), 3),
    "multistep 1": (dpm_multistep(order=1), 1),
    "multistep 2": (dpm_multistep(order=2), 2),
    "multistep 3": (dpm_multistep(order=3), 2),  # its first step, of order 1, bounds the whole
}


def start(n: int = 40) -> Batch:
    rng = torch.Generator().manual_seed(0)
    return Batch({"x": torch.randn(n, 2, generator=rng, dtype=torch.float64)})


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize(("first", "last"), [(0.8, 0.2), (0.2, 0.8)], ids=["down", "up"])
def test_the_error_falls_at_the_stated_order(name: str, first: float, last: float) -> None:
    solver, order = ORDERS[name]
    batch = start()
    ends = torch.full((batch.size,), first), torch.full((batch.size,), last)
    truth = FIELD.module.mixture.flow_map(batch.x, *ends, tol=1e-12)  # type: ignore[union-attr]
    errors = [error(solver, batch, even(n, first, last), truth) for n in (80, 160)]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.35, errors


def error(solver: Expr, batch: Batch, grid: tuple[float, ...], truth: Tensor) -> float:
    return float((solve(FIELD, batch, solver, batch.x, grid)[-1] - truth).square().mean().sqrt())


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("order", [1, 2, 3])
def test_multistep_is_that_of_diffusers(order: int) -> None:
    # the public scheduler on its own path (VE by sigmas), the same exact data prediction, no lower order at the end
    sigmas = [t / (1 - t) for t in karras(9)[:-1]]
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=order,
        prediction_type="sample",
        lower_order_final=False,
        final_sigmas_type="zero",
        use_flow_sigmas=True,
    )
    scheduler.set_timesteps(9)
    scheduler.sigmas = torch.tensor([s / (1 + s) for s in sigmas] + [0.0], dtype=torch.float64)
    batch = start()
    x = batch.x
    for i, t in enumerate(scheduler.timesteps):
        level = scheduler.sigmas[i].expand(batch.size)
        x0 = FIELD(batch.with_(x=x, t=level), "x0")
        x = scheduler.step(x0, t, x).prev_sample
    found = solve(FIELD, batch, dpm_multistep(order=order), batch.x, karras(9))
    torch.testing.assert_close(found[-1], x, rtol=1e-5, atol=1e-5)


def test_ddim_is_the_straight_step() -> None:
    batch = start()
    t, s = torch.full((40,), 0.7, dtype=torch.float64), torch.full((40,), 0.3, dtype=torch.float64)
    by_data = ddim(batch.x, FIELD(batch.with_(t=t), "x0"), t, s)
    torch.testing.assert_close(solve(FIELD, batch, euler(), batch.x, [t, s])[-1], by_data)


def test_rows_may_have_grids_of_their_own() -> None:
    batch = start(2)
    grids = [even(4, 0.9, 0.1), even(4, 0.5, 0.3)]
    both = solve(FIELD, batch, dpm_multistep(), batch.x, [torch.tensor(c) for c in zip(*grids, strict=True)])[-1]
    for i in range(2):
        alone = solve(FIELD, batch, dpm_multistep(), batch.x, grids[i])[-1]
        torch.testing.assert_close(both[i], alone[i], rtol=1e-6, atol=1e-6)


def test_noise_steps_keep_the_law() -> None:
    # with one Gaussian as data every marginal is Gaussian, and all samplers with fresh noise end with its deviation
    law = Player("teacher", frozen(), answer=lambda b, want: {"x0": mean(b.x, b.t[:, None])})
    batch = Batch({"x": torch.randn(20_000, 1, generator=torch.Generator().manual_seed(2))})
    for solver in (sde(eta=1.0), sde(eta=0.5)):
        assert abs(float(solve(law, batch, solver, batch.x, even(400))[-1].std()) - 0.5) < 0.02
    assert torch.equal(
        solve(law, batch, sde(eta=0.0), batch.x, even(6))[-1], solve(law, batch, sde(eta=0.0), batch.x, even(6))[-1]
    )
    one = solve(law, batch, ancestral(), batch.x, (1.0, 0.0))[-1]
    torch.testing.assert_close(one, torch.zeros_like(one))


def mean(x: Tensor, t: Tensor) -> Tensor:
    """E[x0 | x_t] where x0 ~ N(0, 1/4)."""
    return 0.25 * (1 - t) * x / (0.25 * (1 - t) ** 2 + t**2)


def test_grids() -> None:
    assert shifted(4, 1.0) == even(4) and karras(5)[-1] == 0.0 and len(karras(1)) == 2
    sigmas = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, num_train_timesteps=7)
    sigmas.set_timesteps(7)
    mine = torch.tensor([t / (1 - t) for t in karras(7)[:-1]])
    torch.testing.assert_close(mine, sigmas.sigmas[:-1].float(), rtol=1e-4, atol=1e-6)
    for bad in (even, karras):
        with pytest.raises(BadValue, match="steps = 0"):
            bad(0)


def test_what_cannot_be_solved_is_refused() -> None:
    batch = start(2)
    with pytest.raises(BadValue, match="order 1, 2 or 3"):
        solve(FIELD, batch, dpm_multistep(order=4), batch.x, even(2))
    with pytest.raises(BadValue, match="eta"):
        solve(FIELD, batch, sde(eta=2.0), batch.x, even(2))
    with pytest.raises(BadValue, match="1 time"):
        solve(FIELD, batch, euler(), batch.x, (1.0,))


def test_samples_come_from_the_data() -> None:
    batch = load_bed("mog8").data(0)["test"].take(torch.arange(500))
    drawn = ode_sample(solver=heun(), times=karras(18))(Players({"student": FIELD}), Batch(batch))
    distance = torch.cdist(drawn, FIELD.module.mixture.means.float()).min(1).values  # type: ignore[union-attr]
    assert float((distance < 0.45).float().mean()) > 0.97
