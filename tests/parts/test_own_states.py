"""Few-step students on their own states: the teacher's path, where gradients go, and the first step without a net."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.errors import BadValue
from limbeck.parts.optimizer import sgd
from limbeck.parts.own_states import all_steps, analytic_euler, one_step, teacher_path
from limbeck.parts.solver import even, karras, third
from limbeck.players import Players, build
from limbeck.roles import frozen, learning


class Pull(nn.Module):
    """v = w x with one weight a time: what each step leaves to the next is known."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64))

    def forward(self, batch, want):
        step = (4 * (1 - batch["t"])).round().long()
        return {"velocity": self.w[step][:, None] * batch["x"]}


def cast(student: nn.Module | None = None, rows: int = 16) -> tuple[Players, Batch]:
    exact = load_bed("mog5").players["oracle"](0)
    batch = Batch({"x": torch.zeros(rows, 2, dtype=torch.float64)})
    roles = {"student": learning(sgd()), "teacher": frozen()}
    players = build(roles, {"student": student or exact, "teacher": exact}, batch)
    players.turn("test", ("student",))
    return players, batch


def test_the_path_is_that_of_the_exact_flow_at_the_times_of_the_student() -> None:
    players, batch = cast()
    states = teacher_path(solver=third(), times=even(4), merge=12)(players, batch)
    one = torch.ones(16, dtype=torch.float64)
    for i, t in enumerate(even(4)):
        exact = players.teacher(batch.with_(x=states.x, t=one, s=t * one), "flow_map")
        assert torch.allclose(states.path[:, i], exact, atol=5e-3)


def test_a_step_starts_where_the_steps_before_lead_and_teaches_itself_alone() -> None:
    players, batch = cast(Pull())
    states = teacher_path(times=even(4))(players, batch)
    w = players.student.module.w.detach()
    for i in range(4):
        own = states.x * (1 - w[:i] / 4).prod()  # x + (s - t) w x
        loss = one_step(step=i)(players, states.with_())
        assert torch.allclose(loss, (own * (1 - w[i] / 4) - states.path[:, i + 1]).abs().sum(1))
        (grad,) = torch.autograd.grad(loss.sum(), players.student.module.w)
        assert grad[i] != 0 and grad.count_nonzero() == 1
    total = sum(one_step(step=i)(players, states.with_()) for i in range(4))
    assert torch.allclose(all_steps()(players, states.with_()), total)
    given = one_step(step=2, own=False)(players, states.with_())
    assert torch.allclose(given, (states.path[:, 2] * (1 - w[2] / 4) - states.path[:, 3]).abs().sum(1))


def test_the_first_step_without_a_net_is_that_of_a_normal_of_unit_variance() -> None:
    mixture = Mixture(torch.ones(1), torch.zeros(1, 2), 1.0)
    times = karras(6)
    net = ExactField(mixture)
    roles = {"student": frozen(), "teacher": frozen()}
    players = build(roles, {"student": net, "teacher": net}, Batch({"x": torch.zeros(8, 2)}))
    batch = Batch({"x": torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))})
    grid = torch.tensor(times, dtype=torch.float64).expand(8, -1)
    v = net({"x": batch.x, "t": grid[:, 0]}, frozenset({"velocity"}))["velocity"]
    states = analytic_euler()(players, batch.with_(grid=grid))
    there = batch.x + (grid[:, 1:2] - grid[:, :1]) * v  # exact but for 1 / (2 sigma^2), sigma = 80
    assert len(states) == 7 and torch.allclose(states[1], there, atol=1e-3) and (there - batch.x).norm() > 0.1
    made = teacher_path(times=times, analytic=True)(players, batch)
    assert made.grid.shape == (8, 6) and made.path.shape == (8, 6, 2)
    whole = teacher_path(times=times)(players, batch)
    assert torch.allclose(made.path, whole.path[:, 1:])
    start = analytic_euler()(players, batch.with_(x=whole.x, grid=grid))[1]
    assert torch.allclose(made.x, start)


def test_what_cannot_be_is_refused() -> None:
    players, batch = cast()
    states = teacher_path(times=even(2))(players, batch)
    with pytest.raises(BadValue, match="0 to 1"):
        one_step(step=2)(players, states)
    with pytest.raises(BadValue, match="falls"):
        teacher_path(times=(0.0, 1.0))(players, batch)
    with pytest.raises(BadValue, match="below t = 1"):
        teacher_path(times=even(2), analytic=True)(players, batch)
