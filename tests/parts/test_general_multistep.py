"""General solvers: what they begin as, what their numbers do, their gradients, and adversaries that compare."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.errors import BadValue
from limbeck.parts.general_multistep import end_regression, general, generalised
from limbeck.parts.optimizer import adam, sgd
from limbeck.parts.plan import planned_start, solved_ends
from limbeck.parts.relativistic import judge, paired_discriminator, paired_generator
from limbeck.parts.solver import dpm_multistep, even, karras, third
from limbeck.players import Players, build
from limbeck.roles import built, frozen


def cast(times=even(4), rows: int = 64, **more) -> tuple[Players, Batch]:
    batch = Batch({"x": torch.zeros(rows, 2, dtype=torch.float64)})
    roles = {
        "student": frozen(), "solver": built(general(times=times, **more), adam(lr=3e-2)),
        "critic": built(judge(width=16), sgd(lr=0.1)),
    }  # fmt: skip
    players = build(roles, {"student": load_bed("mog5").players["oracle"](0)}, batch)
    for name in ("solver", "critic"):
        players[name].module.double()
    return players, batch


@pytest.mark.parametrize("times", [even(5), karras(6), karras(4)])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_at_first_it_is_dpm_solver(times, order: int) -> None:
    players, batch = cast(times)
    start = planned_start(players, batch)
    grid = torch.tensor(times, dtype=torch.float64).expand(64, -1)
    assert torch.allclose(start.grid.double(), grid, atol=1e-6)
    mine = generalised(order=order)(players, start)
    theirs = dpm_multistep(order=order)(players, start.with_(grid=start.grid))
    assert len(mine) == len(times)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_every_number_has_the_slope_of_its_finite_difference() -> None:
    players, batch = cast(karras(4, 0.05, 20.0))
    lesson = solved_ends(times=even(8))(players, batch)
    players.turn("test", ("solver",))
    end_regression()(players, lesson).sum().backward()
    net = players.solver.module
    for p, place in (
        (net.breaks, 1),
        (net.shift, 1),
        (net.states, (2, 1)),
        (net.outputs, (3, 0)),
        (net.outputs, (3, 3)),
    ):
        values = []
        for shift in (1e-6, -1e-6):
            with torch.no_grad():
                p[place] += shift
                values.append(end_regression()(players, lesson.with_()).sum().item())
                p[place] -= shift
        assert p.grad[place].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=2e-3, abs=1e-4)
    assert net.outputs.grad[1, 2] == 0  # what has not been seen yet adds nothing


def test_times_stay_in_order_whatever_is_learned() -> None:
    players, batch = cast(even(6))
    with torch.no_grad():
        players.solver.breaks.add_(torch.tensor([9.0, -9.0, 3.0, -3.0, 0.0], dtype=torch.float64))
    grid = players.solver(batch, "grid")[0]
    assert grid[0] == 1 and grid[-1] == 0 and (grid.diff() < 0).all()


def test_without_memory_and_shifts_only_times_are_left() -> None:
    players, _ = cast(even(4), memory=0, shifts=False)
    assert [tuple(p.shape) for p in players.solver.module.parameters()] == [(3,)]
    for wrong in ({"times": (1.0, 0.0)}, {"times": (0.0, 0.5, 1.0)}, {"memory": -1}):
        with pytest.raises(BadValue):
            general(**wrong)(None, Batch({"x": torch.zeros(1, 2)}))
    with pytest.raises(BadValue, match="order"):
        generalised(order=4)(*cast())


def test_a_few_steps_of_descent_bring_the_ends_nearer() -> None:
    players, batch = cast(even(4), rows=128)
    lesson = solved_ends(solver=third(), times=even(16))(players, batch)
    players.turn("test", ("solver",))
    optimizer, losses = adam(lr=2e-2)(players.solver.params), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = end_regression()(players, lesson.with_()).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_adversaries_compare_and_are_kept_flat() -> None:
    players, batch = cast()
    lesson = solved_ends(times=even(8))(players, batch)
    equal = lesson.with_(end=generalised()(players, planned_start(players, lesson, lesson.x))[-1])
    assert torch.allclose(paired_generator()(players, equal), torch.full((64,), 2.0, dtype=torch.float64).log())
    none, some = (paired_discriminator(penalty=g)(players, lesson.with_()) for g in (0.0, 2.0))
    x = lesson.end.clone().requires_grad_()
    made = generalised()(players, planned_start(players, lesson, lesson.x))[-1].detach().requires_grad_()
    slopes = [
        torch.autograd.grad(players.critic(lesson.with_(x=at), "logit").sum(), at)[0].square().sum(1)
        for at in (x, made)
    ]
    assert torch.allclose(some - none, slopes[0] + slopes[1])
    players.turn("test", ("critic",))
    paired_discriminator()(players, lesson.with_()).sum().backward()
    assert all(p.grad is not None for p in players.critic.params) and players.solver.breaks.grad is None
