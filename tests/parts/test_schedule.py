"""Schedules, against those of PyTorch and their own closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from limbeck.batch import Moment
from limbeck.parts.schedule import cosine, linear, piecewise

NUMBERS = st.floats(-10, 10)
STEPS = st.integers(2, 200)


def by_torch(make: type, steps: int, start: float, **how: object) -> list[float]:
    """The rates that a scheduler of PyTorch gives to SGD."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=start)
    scheduler = make(optimiser, **how)
    rates = []
    for _ in range(steps):
        rates.append(float(optimiser.param_groups[0]["lr"]))
        optimiser.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [2, 11, 50])
def test_cosine_and_linear_are_those_of_torch(steps: int) -> None:
    mine = [cosine(start=0.3, end=0.02)(Moment(s, steps)) for s in range(steps)]
    how = {"T_max": steps - 1, "eta_min": 0.02}
    assert mine == pytest.approx(by_torch(lr_scheduler.CosineAnnealingLR, steps, 0.3, **how))
    mine = [linear(start=0.3, end=0.06)(Moment(s, steps)) for s in range(steps)]
    how = {"start_factor": 1.0, "end_factor": 0.2, "total_iters": steps - 1}
    assert mine == pytest.approx(by_torch(lr_scheduler.LinearLR, steps, 0.3, **how))


def test_a_staircase_is_that_of_torch() -> None:
    stairs = piecewise(values=(1.0, 0.1, 0.01), until=(0.3, 0.8))
    mine = [stairs(Moment(s, 21)) for s in range(21)]
    assert mine == pytest.approx(by_torch(lr_scheduler.MultiStepLR, 21, 1.0, milestones=[6, 16], gamma=0.1))


@settings(deadline=None)
@given(start=NUMBERS, end=NUMBERS, steps=STEPS, data=st.data())
def test_cosine_is_symmetric_about_its_middle_and_stays_between_its_ends(
    start: float, end: float, steps: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, steps - 1))
    curve = cosine(start=start, end=end)
    there, mirrored = curve(Moment(step, steps)), curve(Moment(steps - 1 - step, steps))
    assert there + mirrored == pytest.approx(start + end, abs=1e-9)
    assert min(start, end) - 1e-9 <= there <= max(start, end) + 1e-9


@settings(deadline=None)
@given(start=NUMBERS, end=NUMBERS, steps=STEPS, data=st.data())
def test_linear_has_equal_steps(start: float, end: float, steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps - 2))
    a, b = (linear(start=start, end=end)(Moment(s, steps)) for s in (step, step + 1))
    assert b - a == pytest.approx((end - start) / (steps - 1), abs=1e-9)


@settings(deadline=None)
@given(start=st.floats(0.1, 10), warmup=st.floats(0.05, 0.9), steps=st.integers(20, 200))
def test_a_warm_up_rises_evenly_from_above_zero_to_the_start_and_no_higher(
    start: float, warmup: float, steps: int
) -> None:
    values = [cosine(start=start, warmup=warmup)(Moment(s, steps)) for s in range(steps)]
    rising = [v for s, v in enumerate(values) if s + 1 < warmup * steps]
    for s, value in enumerate(rising):
        assert value == pytest.approx(start * (s + 1) / (warmup * steps))
    assert 0 < values[0] <= start * (1 + 1e-9) and max(values) <= start * (1 + 1e-9)
    after = values[len(rising) :]
    assert after == sorted(after, reverse=True) and after[-1] == pytest.approx(0.0, abs=1e-9)


@settings(deadline=None)
@given(data=st.data(), borders=st.lists(st.floats(0.01, 0.99), max_size=5, unique=True))
def test_a_staircase_gives_the_value_of_the_first_border_not_yet_reached(
    data: st.DataObject, borders: list[float]
) -> None:
    until, at = tuple(sorted(borders)), Moment(data.draw(st.integers(0, 100)), 101)
    values = tuple(float(n) for n in range(len(until) + 1))
    expected = next((i for i, border in enumerate(until) if at.progress < border), len(until))
    assert piecewise(values=values, until=until)(at) == expected


@pytest.mark.parametrize("curve", [linear(start=3.0), cosine(start=3.0), piecewise(values=(3.0, 1.0))])
def test_a_stage_of_one_step_takes_the_first_value(curve: object) -> None:
    assert curve(Moment(0, 1)) == 3.0


@settings(deadline=None)
@given(step=st.integers(0, 500), steps=STEPS)
def test_beyond_the_last_step_the_last_value_stays(step: int, steps: int) -> None:
    last = Moment(steps - 1, steps)
    for curve in (linear(start=1.0, end=5.0), cosine(start=2.0, end=1.0), piecewise()):
        assert curve(Moment(steps + step, steps)) == pytest.approx(curve(last))
