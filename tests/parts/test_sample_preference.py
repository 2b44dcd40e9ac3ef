"""Preferences between samples: Gaussian steps against torch's normal law, and which way a preference pulls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds.mog8_moved import TIMES
from limbeck.errors import BadValue
from limbeck.parts.sample_preference import (
    better_denoising,
    chain_preference,
    data_over_samples,
    preferred_chains,
    sample_preference,
    step_log_density,
)
from limbeck.parts.states import few_step
from limbeck.players import Player, Players
from limbeck.probes.distribution import mode_quality, sliced_w2
from limbeck.rng import Rng
from limbeck.roles import frozen

BED = load_bed("mog8_moved")


class Shift(nn.Module):
    """Predicts half of what it sees, moved by a weight."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, batch, want):
        return {"x0": 0.5 * batch["x"] + self.by}


def given(by: float = 0.0) -> Players:
    nets = {"student": Shift(by), "reference": Shift(0.0), "reward": BED.players["reward"](0)}
    players = Players({name: Player(name, frozen(), net) for name, net in nets.items()})
    players.turn("tune", ("student",))
    return players


def made(draw, players: Players, batch: Batch) -> Batch:
    with torch.no_grad():  # as in the loop
        return draw(players, batch)


def rows(n: int) -> Batch:
    return Batch({"x": torch.zeros(n, 2)}, rng=Rng(("seed",), torch.arange(n)))


def test_the_density_of_a_step_is_that_of_a_normal_law() -> None:
    rng = torch.Generator().manual_seed(0)
    x, there = torch.randn(2, 30, 3, generator=rng).double()
    t, s = torch.full((30,), 0.75).double(), torch.full((30,), 0.5).double()
    logs = []
    for by in (0.0, 0.7):
        player = given(by).student
        law = Normal(0.5 * (0.5 * x + torch.tensor(by)), 0.5)
        logs.append((step_log_density(player, Batch({"x": x}), x, t, there, s), law.log_prob(there).mean(1)))
    (mine, truth), (other, truth_2) = logs
    torch.testing.assert_close(mine - other, truth - truth_2)  # the constant does not matter


def test_rewards_rank_chains_that_are_runs_of_the_student() -> None:
    players, batch = given(0.3), rows(500)
    pairs = made(preferred_chains(times=TIMES), players, batch)
    for chain, sample in ((pairs.chain, pairs.better), (pairs.rival, pairs.worse)):
        assert chain.shape == (500, 5, 2) and torch.equal(chain[:, -1], sample)
        torch.testing.assert_close(sample, 0.5 * chain[:, -2] + 0.3)  # the last step is certain
    better, worse = (players.reward(batch.with_(x=x), "reward") for x in (pairs.better, pairs.worse))
    assert bool((better >= worse).all()) and float((better - worse).mean()) > 0.1
    # a step that was taken leaves noise of variance s^2 around its mean
    left = pairs.rival[:, 1] - 0.25 * (0.5 * pairs.rival[:, 0] + 0.3)
    both = torch.cat((left, pairs.chain[:, 1] - 0.25 * (0.5 * pairs.chain[:, 0] + 0.3)))
    assert abs(float(both.std()) / 0.75 - 1) < 0.06


def test_a_preference_starts_at_log_two_and_pulls_towards_what_is_liked() -> None:
    for loss, draw in ((chain_preference(), preferred_chains()), (sample_preference(), preferred_chains())):
        players = given(0.0)
        value = loss(players, made(draw, players, rows(400)))
        torch.testing.assert_close(value, torch.full((400,), math.log(2)))
        value.mean().backward()
        slope = players.student.module.by.grad
        assert slope < 0  # the reward likes the right, and so does a larger shift


def test_clipping_stops_what_has_moved_enough() -> None:
    def slope(by: float, clip: float) -> float:
        players = given(by)
        loss = chain_preference(beta=1.0, clip=clip)(players, made(preferred_chains(), players, rows(200)))
        loss.mean().backward()
        return abs(float(players.student.module.by.grad))

    assert slope(3.0, 1e-6) == 0 and slope(3.0, 5.0) > 0
    with pytest.raises(BadValue, match="2 levels or more"):
        chain_preference(times=(1.0,))(given(), preferred_chains(times=(1.0,))(given(), rows(3)))


def test_data_over_samples_and_the_denoising_of_data() -> None:
    batch = rows(2_000).with_(x=torch.full((2_000, 2), 5.0))
    pairs = made(data_over_samples(), given(), batch)
    assert torch.equal(pairs.better, batch.x) and float(pairs.worse.abs().mean()) < 1
    players = given(0.0)
    better_denoising()(players, pairs).mean().backward()
    sample_slope = players.student.module.by.grad
    assert sample_slope < 0  # towards the data, which lie at 5
    # with levels of the path x_t = (1 - t) 5 + t e the best shift is 5 (1 - mean(1 - t) / 2)
    best = 5 * (1 - 0.5 * (1 - sum(TIMES) / 4))
    near = given(best)
    better_denoising()(near, pairs).mean().backward()
    assert abs(float(near.student.module.by.grad)) < 0.05


def test_the_student_of_the_bed_was_distilled_well_and_the_data_moved() -> None:
    players, four = Players({"student": Player("student", frozen(), BED.players["student"](0))}), few_step(times=TIMES)
    before, after = load_bed("mog8").data(0), BED.data(0)
    assert sliced_w2(draw=four, rows=4_000)(players, before) < 0.12
    assert mode_quality(draw=four, rows=4_000)(players, before) > 0.95
    assert sliced_w2(draw=four, rows=4_000)(players, after) > 0.25
