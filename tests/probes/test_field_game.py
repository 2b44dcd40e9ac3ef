"""Figures of a game of student, critic and teacher, against closed forms of Gaussians; what is advised."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.data import Table
from limbeck.parts.states import uniform_levels
from limbeck.players import Player, Players
from limbeck.probes.field_game import (
    LIMITS,
    advice,
    alarms,
    critic_excess,
    kernel_floor,
    mean_drift,
    score_gap,
    spread_drift,
    watched,
)
from limbeck.roles import frozen

HALF = uniform_levels(low=0.5, high=0.5)
DATA = {"test": Table({"x": Mixture(torch.ones(1), torch.zeros(1, 2), 1.0).sample(2_000, 0)[0]})}


class Drawn(nn.Module):
    """A one-step generator of N(mean, std^2)."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, batch, want):
        return {"x0": self.mean + self.std * batch["x"]}


def gaussian(mean: float, std: float) -> ExactField:
    return ExactField(Mixture(torch.ones(1), torch.full((1, 2), mean), std))


def game(student=(0.0, 1.0), critic=(0.0, 1.0), teacher=(0.0, 1.0)) -> Players:
    nets = {"student": Drawn(*student), "critic": gaussian(*critic), "teacher": gaussian(*teacher)}
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def floor(std: float, t: float = 0.5) -> float:
    """The posterior variance of N(0, std^2) at a level, over two coordinates."""
    return 2 * std**2 * t**2 / ((1 - t) ** 2 * std**2 + t**2)


def test_the_floor_of_a_gaussian():
    g = torch.Generator().manual_seed(0)
    x, others = torch.randn(500, 2, generator=g).double(), torch.randn(4_000, 2, generator=g).double()
    t = torch.full((500,), 0.5, dtype=torch.float64)
    seen = 0.5 * x + 0.5 * torch.randn(500, 2, generator=g)
    assert kernel_floor(x, t, seen, others) == pytest.approx(floor(1.0), rel=0.1)


def test_a_critic_that_follows_has_no_excess():
    found = critic_excess(levels=HALF, rows=2_000)(game(student=(1.0, 0.7), critic=(1.0, 0.7)), DATA)
    assert abs(found) < 0.1


def test_the_excess_of_a_critic_that_lags():
    """A critic of another mean errs by d = (1 - k (1 - t)) m in each coordinate, k = std^2 (1 - t) / var(x_t)."""
    found = critic_excess(levels=HALF, rows=2_000)(game(critic=(2.0, 1.0)), DATA)
    off = 2 * (0.5 * 2.0) ** 2
    assert found == pytest.approx(off / floor(1.0), rel=0.15)
    gap = score_gap(levels=HALF, rows=2_000)(game(critic=(2.0, 1.0)), DATA)
    assert gap == pytest.approx(off / floor(1.0), rel=0.1)
    assert score_gap(levels=HALF)(game(), DATA) == pytest.approx(0.0, abs=1e-9)


def test_drifts_of_mean_and_spread():
    players = game(student=(0.5, 0.6))
    assert mean_drift(rows=2_000)(players, DATA) == pytest.approx(0.5, abs=0.05)  # sqrt(2) 0.5 over sqrt(2)
    assert spread_drift(rows=2_000)(players, DATA) == pytest.approx(2 * math.log(0.6), abs=0.1)


@pytest.mark.parametrize(
    ("cast", "says"),
    [
        (dict(critic=(2.0, 1.0)), "critic is behind"),
        (dict(student=(0.8, 1.0), critic=(0.8, 1.0)), "mean of the samples"),
        (dict(student=(0.0, 0.4), critic=(0.0, 0.4)), "modes are being lost"),
        (dict(student=(0.0, 1.8), critic=(0.0, 1.8)), "they burst"),
    ],
)
def test_an_alarm_says_what_to_do(cast, says):
    with pytest.warns(UserWarning, match=says) as told:
        assert alarms(levels=HALF, rows=2_000)(game(**cast), DATA) == len(told) == 1


def test_a_sound_game_is_silent():
    assert alarms(levels=HALF, rows=2_000)(game(), DATA) == 0
    assert advice({}) == [] and advice({name: 0.9 * limit for name, limit in LIMITS.items()}) == []
    assert "follows noise" in advice({"critic excess": 0.2, "score gap": 0.1})[0]


def test_watching_leaves_the_gradient_alone():
    players = game(critic=(2.0, 1.0))
    batch = Table({"x": torch.randn(500, 2)}).take(torch.arange(500))
    x = batch["x"].requires_grad_()
    loss = watched(levels=HALF)(players, Batch({"x": x, "t": torch.ones(500)}))
    assert loss.shape == (500,) and not loss.requires_grad and loss.mean() == pytest.approx(1.0, rel=1e-4)
