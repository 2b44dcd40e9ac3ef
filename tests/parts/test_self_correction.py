"""Self-correction: straight lines lose nothing, the sample that ends a line is held fixed, losses move to the noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.parts.distance import squared
from limbeck.parts.self_correction import from_noise, self_reflow
from limbeck.parts.states import like
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen


class Lines(nn.Module):
    """f(x, t) = a e + b t with e = x in pure noise: straight where b = 0 and a is the answer on the whole line."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (a, b))
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, batch, want):
        x, t = batch["x"], like(batch["t"], batch["x"])
        self.seen.append((x, t))
        # on the line to a e, x = ((1 - t) a + t) e
        return {"x0": self.a * x / ((1 - t) * self.a.detach() + t) + self.b * (1 - t)}


def cast(net: nn.Module) -> Players:
    return Players({"student": Player("student", frozen(), net)})


def rows(n: int = 400) -> Batch:
    x = torch.full((n, 2), 5.0, dtype=torch.float64)
    return Batch({"x": x, "t": torch.zeros(n)}, rng=Rng(("test",), torch.arange(n)))


def test_a_straight_flow_loses_nothing_and_a_bent_one_its_bend() -> None:
    assert float(self_reflow()(cast(Lines(0.4, 0.0)), rows()).max().detach()) < 1e-20
    net = Lines(0.4, 0.6)
    loss = self_reflow()(cast(net), rows())
    (x1, t1), (z, t) = net.seen
    assert t1.eq(1).all() and abs(float(x1.std()) - 1) < 0.1
    torch.testing.assert_close(z, (1 - t) * 0.4 * x1 + t * x1)
    torch.testing.assert_close(loss, (0.6 * (1 - t)).square().squeeze(1))
    # the sample at the end is held fixed: only b of the second answer is left in the slope
    slope = torch.autograd.grad(loss.mean(), net.b)[0]
    torch.testing.assert_close(slope, (2 * 0.6 * (1 - t).square()).mean())


def test_a_loss_from_noise_sees_noise_at_the_highest_level_and_keeps_what_is_real() -> None:
    @part
    def spy(players, batch, *, scale: float = 1.0):
        assert batch.t.eq(1).all() and batch.real.eq(7).all()
        return scale * squared()(batch.x)

    batch = rows().with_(real=torch.full((400, 2), 7.0))
    loss = from_noise(loss=spy(scale=2.0))(cast(Lines(1.0, 0.0)), batch)
    assert float(loss.mean()) == pytest.approx(4.0, rel=0.15)  # twice E|e|^2 in two dimensions
