"""Jumps with noise: the law at every level is that of the path, and both ends are samplers that are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue
from limbeck.parts.flowmap import any_step
from limbeck.parts.solver import even
from limbeck.parts.states import few_step
from limbeck.parts.stochastic_jumps import jump_and_noise, renoise
from limbeck.players import Player, Players
from limbeck.probes.agreement import sampler_gap
from limbeck.probes.distribution import mmd, sliced_w2
from limbeck.probes.lesser import lesser
from limbeck.rng import Rng
from limbeck.roles import frozen

FIVE = (1.0, 0.8, 0.5, 0.3, 0.0)


class GaussianMap(nn.Module):
    """The exact flow map of N(mean, std^2), as an average velocity."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def sd(self, t: Tensor) -> Tensor:
        return ((1 - t).square() * self.std**2 + t.square()).sqrt()

    def forward(self, batch, want):
        x, t, s = batch["x"], batch["t"][:, None], batch["s"][:, None]
        end = (1 - s) * self.mean + self.sd(s) / self.sd(t) * (x - (1 - t) * self.mean)
        return {"velocity": torch.where(s < t, (end - x) / (s - t).clamp(max=-1e-6), 0.0)}


def rows(n: int, dim: int = 1) -> Batch:
    return Batch({"x": torch.zeros(n, dim, dtype=torch.float64)}, rng=Rng(("test",), torch.arange(n)))


def cast(net: nn.Module) -> Players:
    return Players({"student": Player("student", frozen(), net)})


@given(gamma=st.floats(0, 1), mean=st.floats(-2, 2), std=st.floats(0.3, 2))
@settings(max_examples=15, deadline=None)
def test_an_exact_map_keeps_the_law_of_the_data_whatever_gamma_is(gamma: float, mean: float, std: float) -> None:
    x = jump_and_noise(times=FIVE, gamma=gamma)(cast(GaussianMap(mean, std)), rows(20_000))
    assert abs(float(x.mean()) - mean) < 0.05 * std and abs(float(x.std()) / std - 1) < 0.03


@given(s=st.floats(0, 0.95), up=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_noise_brings_a_state_to_the_law_of_the_higher_level(s: float, up: float) -> None:
    # x_s = (1 - s) x0 + s e, so x_t must hold (1 - t) x0 and noise of variance t^2: both are linear and exact
    t = s + up * (1 - s)
    keep = float(renoise(torch.ones(1, 1).double(), s, t, torch.zeros(1, 1)))
    fresh_part = float(renoise(torch.zeros(1, 1).double(), s, t, torch.ones(1, 1)))
    assert keep * (1 - s) == pytest.approx(1 - t, abs=1e-6)
    assert (keep * s) ** 2 + fresh_part**2 == pytest.approx(t**2, abs=1e-6)


def test_at_its_ends_it_is_the_sampler_of_flow_maps_and_that_of_consistency_models() -> None:
    players, batch = cast(fresh(0, 2).double()), rows(50, 2)
    torch.testing.assert_close(
        jump_and_noise(times=even(4), gamma=0.0)(players, batch), any_step(times=even(4))(players, batch)
    )
    down = jump_and_noise(times=even(4), gamma=1.0)
    torch.testing.assert_close(down(players, batch), few_step(times=even(4)[:-1])(players, batch))
    assert not torch.allclose(down(players, batch), jump_and_noise(times=even(4), gamma=0.5)(players, batch))
    # a net that reads no level to reach is its consistency function, whether it is told or not
    untold = jump_and_noise(times=even(4), gamma=1.0, told=False)
    torch.testing.assert_close(untold(players, batch), down(players, batch))
    with pytest.raises(BadValue, match=r"gamma must lie in \[0, 1\], got 2\.0"):
        jump_and_noise(gamma=2.0)(players, batch)


def test_probes_of_two_samplers() -> None:
    from limbeck.beds import load_bed

    data = load_bed("mog8").data(0)
    players = cast(fresh(0, 2))
    one, four = (jump_and_noise(times=even(n), gamma=0.0) for n in (1, 4))
    assert sampler_gap(first=one, second=one, rows=100)(players, data) == 0
    assert sampler_gap(first=one, second=four, rows=100)(players, data) > 1e-5
    a, b = sliced_w2(draw=one, rows=100), mmd(draw=one, rows=100)
    assert lesser(first=a, second=b)(players, data) == min(a(players, data), b(players, data))
