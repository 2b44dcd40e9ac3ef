"""Bootstrapped trajectories: the exact signal is a fixed point, its step is that of the flow, and no datum is seen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.errors import BadValue
from limbeck.parts.bootstrap import bootstrapped, boundary, noise_and_levels, signal_step
from limbeck.parts.solver import ddim
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

MIXTURE = Mixture(torch.tensor([0.4, 0.6]), torch.tensor([[-1.0, 0.3], [0.8, 0.0]]), 0.5)


class Signal(nn.Module):
    """u(e, 1, s) = e - y_s of exact trajectories; at s = 1 the teacher's first guess."""

    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.off = nn.Parameter(torch.tensor(off, dtype=torch.float64))

    def forward(self, batch, want):
        e, s = batch["x"], batch["s"].double()
        state = MIXTURE.flow_map(e, torch.ones_like(s), s)
        y = (state - s[:, None] * e) / (1 - s)[:, None].clamp(min=1e-9)
        first = MIXTURE.posterior(e, torch.zeros_like(s), s)[0]
        return {"velocity": e - torch.where(s[:, None] > 1 - 1e-7, first, y) + self.off}


def cast(student: nn.Module) -> Players:
    field = ExactField(MIXTURE)
    return Players({"student": Player("student", frozen(), student), "teacher": Player("teacher", frozen(), field)})


def rows(n: int = 24, fill: float = 0.0) -> Batch:
    return Batch({"x": torch.full((n, 2), fill, dtype=torch.float64)}, rng=Rng(("test",), torch.arange(n)))


def test_levels_have_the_type_of_the_states() -> None:
    batch = noise_and_levels(gap=0.1)(None, rows())
    assert batch.t.dtype == batch.s.dtype == batch.x.dtype == torch.float64
    assert torch.allclose(batch.t - batch.s, torch.tensor(0.1, dtype=torch.float64), atol=1e-15)


def test_the_step_of_the_signal_is_that_of_ddim() -> None:
    e, y, x0 = torch.randn(3, 8, 2, dtype=torch.float64).unbind(0)
    t, s = torch.full((8,), 0.7, dtype=torch.float64), torch.full((8,), 0.45, dtype=torch.float64)
    state = 0.3 * y + 0.7 * e
    there = signal_step(y, x0, t, s)
    torch.testing.assert_close(0.55 * there + 0.45 * e, ddim(state, x0, t, s))


def test_the_exact_signal_is_met_at_the_order_of_the_step() -> None:
    # one step of DDIM errs as gap^2, and the loss is its square over gap^2
    loss = [
        float(bootstrapped()(cast(Signal()), noise_and_levels(gap=gap)(None, rows())).median().sqrt().detach())
        for gap in (0.02, 0.01)
    ]
    assert abs(math.log2(loss[0] / loss[1]) - 1) < 0.2 and loss[1] < 0.05


def test_the_boundary_is_the_teachers_first_guess() -> None:
    assert float(boundary()(cast(Signal()), rows()).max().detach()) < 1e-20
    # off by 0.3 in both coordinates
    torch.testing.assert_close(boundary()(cast(Signal(0.3)), rows()).detach(), torch.full((24,), 0.09).double())


def test_data_are_not_seen_and_gradients_stop_at_the_target() -> None:
    states = [noise_and_levels()(None, rows(fill=fill)) for fill in (0.0, 9.0)]
    assert torch.equal(states[0].x, states[1].x) and torch.equal(states[0].t, states[1].t)
    assert (states[0].s > 0).all() and (states[0].t <= 1).all()
    student = Signal(0.2)
    losses = bootstrapped()(cast(student), states[0])
    slope: Tensor = torch.autograd.grad(losses.mean(), student.off)[0]

    def by_hand(off: float) -> Tensor:
        held, batch = Signal(0.2), states[0].with_()
        y = batch.x - held({**batch, "s": batch.t}, frozenset())["velocity"]
        state = (1 - batch.t)[:, None] * y + batch.t[:, None] * batch.x
        believed = ExactField(MIXTURE)({"x": state, "t": batch.t}, frozenset({"x0"}))["x0"]
        target = signal_step(y, believed, batch.t, batch.s)
        mine = batch.x - Signal(off)(batch, frozenset())["velocity"]
        return ((mine - target).square().mean(1) / (batch.t - batch.s).square()).mean().detach()

    torch.testing.assert_close(slope, (by_hand(0.2001) - by_hand(0.1999)) / 2e-4, atol=1e-4, rtol=1e-3)


def test_a_gap_as_wide_as_the_path_is_refused() -> None:
    with pytest.raises(BadValue, match=r"gap must lie between 0 and 1, got 1\.0"):
        noise_and_levels(gap=1.0)(None, rows())
