"""Shortcuts from half steps: straight flows are fixed points, the identity holds of exact averages, teachers count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.parts.halved_steps import field_imitation, halved_states, shortcut
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen


class Straight(nn.Module):
    """The field of straight lines to one point: v = (x - c) / t, constant along each."""

    def __init__(self, c: float, off: float = 0.0) -> None:
        super().__init__()
        self.c, self.off = c, nn.Parameter(torch.tensor(off, dtype=torch.float64))

    def forward(self, batch, want):
        return {"velocity": (batch["x"] - self.c) / batch["t"].to(batch["x"].dtype)[:, None] + self.off}


def cast(**nets: nn.Module) -> Players:
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def states(n: int = 200, longest: float = 0.5, seed: int = 0) -> Batch:
    x = torch.zeros(n, 2, dtype=torch.float64)
    return halved_states(longest=longest)(None, Batch({"x": x}, rng=Rng(("test", seed), torch.arange(n))))


@given(c=st.floats(-2, 2), longest=st.floats(0.01, 1.0))
@settings(max_examples=10, deadline=None)
def test_straight_flows_are_fixed_points(c: float, longest: float) -> None:
    flow = Straight(c)
    assert float(shortcut()(cast(student=flow, fast=flow, slow=flow), states(longest=longest)).max().detach()) < 1e-15


def test_the_field_that_bends_errs_as_the_step_and_the_averages_count_as_told() -> None:
    # of an exact field, the mean of two half steps differs from its start by h/4 times the slope: the loss falls as h^2
    field = ExactField(Mixture(torch.ones(2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 0.3))
    players = cast(student=field, fast=field, slow=field)
    coarse, fine = (float(shortcut()(players, states(2_000, h)).mean().sqrt()) for h in (0.02, 0.01))
    assert coarse / fine == pytest.approx(2, rel=0.1)
    # fast off by 1, slow by 3: the target lies 2 away at hold = 0.5, 1 at hold = 0
    flows = {"student": Straight(0.5), "fast": Straight(0.5, 1.0), "slow": Straight(0.5, 3.0)}
    for hold, loss in ((0.0, 1.0), (0.5, 4.0), (1.0, 9.0)):
        # where the first half step is off, the second one starts from elsewhere; short steps leave that out
        got = shortcut(hold=hold)(cast(**flows), states(longest=1e-6)).detach()
        torch.testing.assert_close(got, torch.full_like(got, loss), atol=1e-3, rtol=1e-3)


def test_only_the_student_is_taught() -> None:
    student, fast, slow = Straight(0.5, 0.2), Straight(0.5, 0.1), Straight(0.5)
    loss = shortcut()(cast(student=student, fast=fast, slow=slow), states()).mean()
    grads = torch.autograd.grad(loss, [student.off, fast.off, slow.off], allow_unused=True)
    assert float(grads[0]) > 0 and grads[1] is None and grads[2] is None


def test_steps_stay_on_the_path_and_grow_with_the_longest() -> None:
    for longest in (0.05, 1.0):
        there = states(20_000, longest)
        d = there.t - there.r
        assert (there.r >= 0).all() and (d > 0).all() and float(d.max()) <= longest
        # E min(t, h) / 2 = (h - h^2 / 2) / 2
        assert float(d.mean()) == pytest.approx((longest - longest**2 / 2) / 2, rel=0.05)


def test_imitation_is_the_distance_of_two_fields() -> None:
    got = field_imitation()(cast(student=Straight(0.0, 0.3), teacher=Straight(0.0)), states()).detach()
    torch.testing.assert_close(got, torch.full_like(got, 0.09))
