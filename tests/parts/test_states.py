"""Noise levels and the states of few-step students."""

from __future__ import annotations

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.parts.states import (
    backward_simulated,
    few_step,
    karras_levels,
    like,
    noise_states,
    noised,
    noised_states,
    uniform_levels,
)
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen


def rows(n: int, *shape: int, fill: float = 0.0) -> Batch:
    return Batch({"x": torch.full((n, *shape), fill)}, rng=Rng(("seed", 1), torch.arange(n)))


def student(net: nn.Module) -> Players:
    return Players({"student": Player("student", frozen(), net)})


class Half(nn.Module):
    """Predicts half of what it sees, and keeps a record of the levels it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def forward(self, batch, want):
        self.seen.append(float(batch["t"][0]))
        return {"x0": batch["x"] / 2}


def test_noised_data_have_the_moments_of_the_path() -> None:
    # at level t data of value 2 have mean 2 (1 - t) and standard deviation t
    seen = noised(student(Half()), rows(60_000, 1), torch.full((60_000, 1), 2.0), uniform_levels(), "n")
    assert seen.t.min() >= 0.02 and seen.t.max() <= 0.98
    left = (seen.x - 2 * (1 - like(seen.t, seen.x))) / like(seen.t, seen.x)
    assert abs(float(left.mean())) < 0.02 and abs(float(left.std()) - 1) < 0.02


def test_draws_under_other_names_are_independent() -> None:
    batch, x0 = rows(5_000, 1), torch.zeros(5_000, 1)
    a, b = (noised(student(Half()), batch, x0, uniform_levels(), name) for name in "ab")
    assert abs(float(torch.corrcoef(torch.stack((a.t, b.t)))[0, 1])) < 0.05
    assert torch.equal(a.t, noised(student(Half()), batch, x0, uniform_levels(), "a").t)


def test_karras_levels_reach_from_smallest_to_largest_noise() -> None:
    t = karras_levels(low=0.0, high=1.0)(None, rows(50_000, 1))
    sigma = t / (1 - t)
    # the ladder's ends, and its middle: ((0.002^(1/7) + 80^(1/7)) / 2)^7 = 2.52
    assert 0.002 <= sigma.min() < 0.0025 and 75 < sigma.max() < 80.1
    middle = ((0.002 ** (1 / 7) + 80 ** (1 / 7)) / 2) ** 7
    assert abs(float(sigma.median()) / middle - 1) < 0.05


def test_a_one_step_run_is_the_prediction_from_noise() -> None:
    net = Half()
    players, batch = student(net), rows(6, 3)
    states = noise_states()(players, batch)
    assert states.t.eq(1).all() and torch.equal(states.real, batch.x)
    torch.testing.assert_close(few_step(times=(1.0,))(players, batch), states.x / 2)
    assert net.seen == [1.0]
    # one level alone is the same as no simulation
    assert torch.equal(backward_simulated(times=(1.0,))(players, batch).x, states.x)


def test_a_few_step_run_asks_at_its_levels_and_predicts_last() -> None:
    net = Half()
    times = (1.0, 0.75, 0.5, 0.25)
    few_step(times=times)(student(net), rows(2, 3))
    assert net.seen == list(times)


def test_simulated_states_are_those_of_the_sampler() -> None:
    # the exact field of a point at (2, 2) predicts that point from anywhere, so x_t has mean 2 (1 - t), deviation t
    point = ExactField(Mixture(torch.ones(1), torch.full((1, 2), 2.0), 1e-3))
    states = backward_simulated(times=(1.0, 0.5, 0.2))(student(point), rows(30_000, 2))
    for t in (1.0, 0.5, 0.2):
        x = states.x[(states.t - t).abs() < 1e-6]
        assert abs(len(x) / 30_000 - 1 / 3) < 0.02
        torch.testing.assert_close(x.mean(0), torch.full((2,), 2 * (1 - t)), atol=0.04, rtol=0)
        torch.testing.assert_close(x.std(0), torch.full((2,), t), atol=0.03, rtol=0)


def test_noised_states_use_the_data_and_not_the_student() -> None:
    states = noised_states(times=(1.0, 0.5))(student(Half()), rows(30_000, 1, fill=4.0))
    half = states.t == 0.5
    assert abs(float(states.x[half].mean()) - 2.0) < 0.02 and abs(float(states.x[~half].mean())) < 0.03


def test_a_part_of_the_rows_has_the_same_states() -> None:
    # what a process holds does not change what it draws
    point = ExactField(Mixture(torch.ones(2), torch.tensor([[2.0], [-2.0]]), 0.1))
    whole = backward_simulated()(student(point), rows(8, 1))
    part = backward_simulated()(student(point), rows(8, 1).rows(slice(3, 6)))
    torch.testing.assert_close(whole.x[3:6], part.x)
    assert torch.equal(whole.t[3:6], part.t)
