"""Solvers that lean: the amount against a numerical optimum, a rule of Adams and Bashforth, times and starts."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize_scalar

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.errors import BadValue
from limbeck.parts.lean import fit_lean, lean, leaning
from limbeck.parts.plan import planned_sample, planned_start, refined, solved_ends
from limbeck.parts.solver import dpm_multistep, euler, even, heun
from limbeck.parts.states import few_step
from limbeck.players import Players, build
from limbeck.probes.endpoint import endpoint_error
from limbeck.roles import built, frozen


def cast(times: tuple[float, ...], bed: str = "mog5") -> tuple[Players, Batch]:
    world = load_bed(bed)
    x = world.data(0)["train"].take(torch.arange(64))["x"].double()
    nets = {"student": world.players["oracle"](0), "oracle": world.players["oracle"](0)}
    roles = {"student": frozen(), "oracle": frozen(), "solver": built(lean(times=times))}
    players = build(roles, nets, Batch({"x": x}))
    players["solver"].module.double()
    return players, Batch({"x": x})


@pytest.mark.parametrize("base", [dpm_multistep(order=1), dpm_multistep(order=2), euler()])
def test_the_closed_form_is_the_numerical_optimum_of_every_step(base) -> None:
    players, batch = cast(even(4))
    fit_lean(base=base)(players, batch, {})
    found = players.solver.lean.detach().clone()
    start = planned_start(players, batch)
    truth = base(players, start.with_(grid=refined(start.grid, 10)))[::10]

    def cost(amount: float, step: int) -> float:
        with torch.no_grad():
            players.solver.lean.copy_(found)
            players.solver.lean[step] = amount
            there = leaning(base=base)(players, start.with_())[step + 1]
        return float((there - truth[step + 1]).square().sum())

    assert found[0] == 0  # nothing was said before
    for step in (1, 2, 3):
        best = minimize_scalar(cost, args=(step,), bounds=(-5, 5), method="bounded", options={"xatol": 1e-9})
        assert found[step].item() == pytest.approx(best.x, abs=1e-5)


def test_leaning_by_a_half_is_the_rule_of_adams_and_bashforth_of_order_two() -> None:
    errors = []
    for n in (40, 80, 160):
        times = even(n, 0.9, 0.1)
        players, batch = cast(times, "mog8")
        with torch.no_grad():
            players.solver.lean.fill_(0.5)
        z = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        grid = torch.tensor(times, dtype=torch.float64).expand(64, -1)
        end = leaning(base=euler())(players, batch.with_(x=z, grid=grid))[-1]
        exact = players.oracle(batch.with_(x=z, t=grid[:, 0], s=grid[:, -1]), "flow_map")
        errors.append(float((end - exact).norm()))
    orders = torch.tensor(errors).log2().diff().neg()
    assert (orders - 2).abs().max() < 0.25


def test_a_solver_that_does_not_lean_is_its_base() -> None:
    players, batch = cast(even(5))
    base = dpm_multistep(order=2)
    start = planned_start(players, batch)
    leant, plain = leaning(base=base)(players, start.with_()), base(players, start.with_())
    assert all(torch.equal(a, b) for a, b in zip(leant, plain, strict=True))


def test_the_solver_answers_as_a_generator_of_one_step() -> None:
    world = load_bed("mog5")
    batch = Batch({"x": torch.zeros(8, 2)})
    roles = {"teacher": frozen(), "student": built(lean(times=even(5)))}
    players = build(roles, {"teacher": world.players["oracle"](0)}, batch)
    with torch.no_grad():
        players.student.lean.fill_(0.3)
    drawn = few_step()(players, batch)
    named = players.renamed({"student": "teacher", "solver": "student"})
    assert torch.equal(drawn, planned_sample(solver=leaning())(named, batch))
    assert players.student.module.state_dict().keys() == {"times", "lean"}  # the field is none of its weights
    with pytest.raises(BadValue, match="pure noise"):
        players.student(batch.with_(t=torch.full((8,), 0.5)), "x0")


def test_a_base_that_asks_twice_a_step_is_refused() -> None:
    players, batch = cast(even(3))
    with pytest.raises(BadValue, match="one evaluation a step"):
        leaning(base=heun())(players, planned_start(players, batch))


def test_leaning_brings_few_steps_nearer_to_the_exact_ends() -> None:
    players, batch = cast(even(5))
    data = {"test": load_bed("mog5").data(1)["test"]}
    probe = endpoint_error(draw=planned_sample(solver=leaning()), rows=200)
    before = probe(players, data)
    fit_lean()(players, batch, {})
    assert probe(players, data) < 0.8 * before


def test_solved_ends_are_those_of_the_exact_flow() -> None:
    players, batch = cast(even(2))
    made = solved_ends(times=even(60))(players, batch)
    one = torch.ones(64, dtype=torch.float64)
    exact = players.oracle(batch.with_(x=made.x, t=one, s=0 * one), "flow_map")
    assert (made.end - exact).abs().max() < 2e-3


@pytest.mark.parametrize("times", [(1.0,), (0.0, 1.0)])
def test_times_that_do_not_fall_are_refused(times) -> None:
    players, batch = cast(even(2))
    with pytest.raises(BadValue):
        solved_ends(times=times)(players, batch)
    with pytest.raises(BadValue):
        refined(torch.ones(1, 2), 0)
