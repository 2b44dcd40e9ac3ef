"""Discrete consistency: exact maps lose nothing, gradients stop at the target, levels and neighbours are as told."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import pseudo_huber as scipy_huber
from scipy.stats import norm
from torch import Tensor, nn

from limbeck.batch import Batch, Moment
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.errors import BadValue
from limbeck.parts.consistency import consistency, gap_weight, reverse_consistency
from limbeck.parts.distance import huber_each, pseudo_huber, squared
from limbeck.parts.doubling import doubling
from limbeck.parts.neighbours import (
    even_ladder_step,
    free_step,
    grid_step,
    ladder,
    ladder_step,
    line_states,
    reach_below,
    rung_masses,
    teacher_step,
)
from limbeck.parts.solver import euler, heun, karras
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

MIXTURE = Mixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.4)


class ExactMap(nn.Module):
    """The exact flow map of a mixture as a student, and its field where no level to reach is near; bent if asked."""

    def __init__(self, mixture: Mixture, bend: float = 0.0) -> None:
        super().__init__()
        self.field = ExactField(mixture)
        self.bend = nn.Parameter(torch.tensor(bend, dtype=torch.float64))

    def forward(self, batch, want):
        s = batch.get("s", torch.zeros_like(batch["t"]))
        end = self.field({**batch, "s": s}, frozenset({"flow_map"}))["flow_map"]
        gap = (s - batch["t"])[:, None]
        u = torch.where(gap.abs() > 1e-9, (end - batch["x"]) / gap.clamp(max=-1e-9), 0.0)
        return {"velocity": u + self.bend * (batch["t"] - s)[:, None] * batch["x"].sin()}


@pytest.mark.parametrize("distance", [pseudo_huber, huber_each])
@pytest.mark.parametrize("c", [0.0, 0.3])
def test_equal_answers_pull_nowhere(distance, c: float) -> None:
    r = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(distance(c=c)(r).sum(), r)
    assert torch.equal(gradient, torch.zeros(2, 3))


def rows(n: int = 64, dim: int = 2, seed: int = 0) -> Batch:
    x = torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Batch({"x": x}, rng=Rng(("test", seed), torch.arange(n)))


def cast(**nets: nn.Module) -> Players:
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def exact_pair(batch: Batch, mixture: Mixture = MIXTURE) -> Batch:
    """A state and two neighbours on its exact trajectory."""
    near, far = (mixture.flow_map(batch.x, batch.t, level) for level in (batch.r, batch.q))
    return batch.with_(near=near, far=far, real=batch.x)


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", [False, True])
def test_the_exact_map_is_a_zero_of_every_loss_and_a_bent_one_is_not(reach: bool) -> None:
    batch, distance = exact_pair(free_step(longest=0.2)(None, rows(6))), squared()
    batch = reach_below()(None, batch) if reach else batch
    exact, bent = ExactMap(MIXTURE), ExactMap(MIXTURE, 0.3)
    for loss in (consistency(distance=distance), reverse_consistency(distance=distance)):
        assert loss(cast(student=exact, target=exact), batch.with_()).abs().max() < 1e-6
        assert loss(cast(student=bent, target=exact), batch.with_()).mean() > 1e-3


@given(mean=st.floats(-2, 2), std=st.floats(0.2, 2))
@settings(max_examples=4, deadline=None)
def test_the_consistency_function_of_a_gaussian_is_its_closed_form(mean: float, std: float) -> None:
    # f(x, t) = m + c (x - (1 - t) m) / sqrt((1 - t)^2 c^2 + t^2)
    class Closed(nn.Module):
        def forward(self, batch, want):
            x, t = batch["x"], batch["t"][:, None]
            end = mean + std * (x - (1 - t) * mean) / ((1 - t).square() * std**2 + t.square()).sqrt()
            return {"velocity": (x - end) / t}

    batch = free_step()(None, rows(8, 1))
    pair = exact_pair(batch.with_(t=batch.t.double()), Mixture(torch.ones(1), torch.full((1, 1), mean), std))
    assert consistency()(cast(student=Closed(), target=Closed()), pair).max() < 1e-6


def test_a_truncated_target_is_the_datum() -> None:
    batch = exact_pair(free_step()(None, rows(4)))
    student = ExactMap(MIXTURE)
    whole = consistency(distance=squared(), truncation=1.1)(cast(student=student, target=student), batch)
    end = batch.x - batch.t[:, None] * student(batch, frozenset())["velocity"]
    torch.testing.assert_close(whole, (end - batch.real).square().sum(1))


class Still(nn.Module):
    """A learnt constant velocity that keeps what it was shown."""

    def __init__(self, v: float) -> None:
        super().__init__()
        self.v, self.seen = nn.Parameter(torch.tensor(v, dtype=torch.float64)), []

    def forward(self, batch, want):
        self.seen.append(set(batch))
        return {"velocity": self.v + 0 * batch["x"]}


def test_gradients_stop_at_the_target_and_an_untold_net_sees_no_level_to_reach() -> None:
    net = Still(0.7)
    one = {"t": torch.ones(4), "r": torch.full((4,), 0.5), "s": torch.full((4,), 0.25)}
    batch = Batch({"x": torch.zeros(4, 1, dtype=torch.float64), "near": torch.zeros(4, 1, dtype=torch.float64), **one})
    loss = consistency(distance=squared(), told=False).on(target="student")
    total = loss.total(cast(student=net), batch)["loss"]
    # ends -0.75 v and -0.25 v: (v / 2)^2, whose slope with the second held fixed is 2 (v / 2) 0.75
    assert total.item() == pytest.approx(0.35**2)
    assert float(torch.autograd.grad(total, net.v)[0]) == pytest.approx(0.7 * 0.75)
    assert all("s" not in seen for seen in net.seen)


def test_distances_against_scipy() -> None:
    r = torch.randn(50, 6, dtype=torch.float64)
    length = r.norm(dim=1).numpy()
    c = 0.3 * math.sqrt(6)  # SciPy's grows from 0 as delta^2 (sqrt(1 + (r / delta)^2) - 1)
    torch.testing.assert_close(pseudo_huber(c=0.3)(r), torch.from_numpy(scipy_huber(c, length) / c))
    torch.testing.assert_close(huber_each(c=0.3)(r), torch.from_numpy(scipy_huber(0.3, r.numpy()) / 0.3).mean(1))


# -- levels -----------------------------------------------------------------------------------------------------------


@given(rungs=st.integers(1, 300), mean=st.floats(-3, 3), std=st.floats(0.2, 3))
@settings(max_examples=20, deadline=None)
def test_the_masses_of_rungs_are_those_of_the_normal_law(rungs: int, mean: float, std: float) -> None:
    times = ladder(rungs, 0.002, 80.0, 7.0)
    mass = rung_masses(times, mean, std)
    assert float(mass.sum()) == pytest.approx(1) and (mass >= 0).all()
    log_sigma = (times / (1 - times)).log().numpy()
    below = norm(mean, std).cdf(log_sigma)
    torch.testing.assert_close(mass, torch.from_numpy((below[:-1] - below[1:]) / below[0]), atol=1e-9, rtol=1e-6)


def test_steps_are_neighbours_on_their_ladder_and_as_frequent_as_they_should_be() -> None:
    batch = rows(40_000, 1)
    for part, mass in (
        (ladder_step(rungs=9), rung_masses(ladder(9, 0.002, 80.0, 7.0), -1.1, 2.0)),
        (even_ladder_step(rungs=9), torch.full((9,), 1 / 9)),
        (grid_step(times=karras(9)), torch.full((9,), 1 / 9)),
    ):
        there = part(None, batch)
        times = torch.tensor(karras(9))
        k = (there.t[:, None] - times).abs().argmin(1)
        assert torch.equal(there.t, times[k]) and torch.equal(there.r, times[k + 1])
        assert (torch.bincount(k, minlength=9) / 40_000 - mass).abs().max() < 0.01
    with pytest.raises(BadValue, match="skip must be at least 1 and below the 2 times"):
        grid_step(times=(1.0, 0.0), skip=2)(None, batch)


def test_the_weight_is_one_over_the_gap_of_noise() -> None:
    there = ladder_step(rungs=30)(None, rows())
    sigma = lambda t: t.double() / (1 - t.double())  # noqa: E731
    torch.testing.assert_close(
        gap_weight()(None, there).double(), 1 / (sigma(there.t) - sigma(there.r)), rtol=1e-3, atol=0
    )


def test_a_ladder_doubles_at_equal_intervals() -> None:
    # the paper's CIFAR-10 numbers: 400k steps, 10 to 1280, eight stages of 50k
    seen = [doubling()(Moment(k, 400_000)) for k in range(0, 400_000, 50_000)]
    assert seen == [11, 21, 41, 81, 161, 321, 641, 1281]
    assert doubling()(Moment(49_999, 400_000)) == 11 and doubling()(Moment(399_999, 400_000)) == 1281


@given(segments=st.integers(1, 8), steps=st.integers(1, 8), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_levels_to_reach_stay_in_the_segment(segments: int, steps: int, seed: int) -> None:
    grid = tuple(1 - i / (segments * steps) for i in range(segments * steps + 1))
    there = reach_below(segments=segments)(None, grid_step(times=grid)(None, rows(500, 1, seed)))
    border = torch.floor((there.t.double() * segments).round(decimals=4) - 1e-9) / segments
    assert (there.s <= there.r + 1e-6).all() and (there.r < there.t).all()
    assert (there.s >= border - 1e-6).all() and (there.t <= border + 1 / segments + 1e-6).all()
    with pytest.raises(BadValue, match="at least 1"):
        reach_below(segments=0)(None, there)


# -- states -----------------------------------------------------------------------------------------------------------


def test_both_states_of_a_line_share_datum_and_noise() -> None:
    there = line_states()(None, ladder_step(rungs=20)(None, rows(5_000)))
    t, r = there.t[:, None], there.r[:, None]
    noise = (there.x - (1 - t) * there.real) / t
    torch.testing.assert_close(there.near, (1 - r) * there.real + r * noise, atol=1e-5, rtol=1e-5)
    assert abs(float(noise.mean())) < 0.03 and abs(float(noise.std()) - 1) < 0.03


@pytest.mark.parametrize(("solver", "order"), [(euler(), 1), (heun(), 2)])
def test_a_teacher_steps_to_both_sides_at_the_order_of_its_solver(solver, order: int) -> None:
    levels = rows(32).with_(t=torch.full((32,), 0.6), r=torch.full((32,), 0.4), q=torch.full((32,), 0.8))
    players = cast(teacher=ExactField(MIXTURE))
    errors: dict[str, list[Tensor]] = {"near": [], "far": []}
    for steps in (4, 8):
        there = teacher_step(solver=solver, steps=steps)(players, levels)
        for side, level in (("near", there.r), ("far", there.q)):
            errors[side].append((there[side] - MIXTURE.flow_map(there.x, there.t, level)).norm())
    for coarse, fine in errors.values():
        assert abs(math.log2(float(coarse / fine)) - order) < 0.35
    assert "far" not in teacher_step()(players, rows(2).with_(t=torch.ones(2), r=torch.zeros(2)))
