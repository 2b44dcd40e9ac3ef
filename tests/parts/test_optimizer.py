"""Optimisers and schedules."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Moment
from limbeck.errors import BadValue, UnknownName
from limbeck.parts.optimizer import adam, adamw, sgd
from limbeck.parts.schedule import cosine, linear, piecewise


def one_step(part, value: float = 2.0, grad: float = 3.0) -> float:
    w = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    optimizer = part([w])
    w.grad = torch.tensor([grad], dtype=torch.float64)
    optimizer.step()
    return float(w.detach())


def test_first_steps_are_those_of_the_formulas() -> None:
    # Adam's first step is lr whatever the gradient; AdamW shrinks the weight by lr * weight_decay before
    assert one_step(adam(lr=0.1)) == pytest.approx(1.9)
    assert one_step(adamw(lr=0.1, weight_decay=0.5)) == pytest.approx(2.0 * 0.95 - 0.1)
    assert one_step(sgd(lr=0.1)) == pytest.approx(1.7)
    assert one_step(sgd(lr=0.1, weight_decay=1.0)) == pytest.approx(1.5)


def test_a_schedule_stands_for_the_learning_rate() -> None:
    optimizer = adamw(lr=linear(start=0.3, end=0.0))([torch.zeros(1, requires_grad=True)])
    assert optimizer.param_groups[0]["lr"] == 0.3


def test_settings_are_checked() -> None:
    with pytest.raises(UnknownName, match="did you mean 'lr'"):
        adamw(lrs=1.0)
    with pytest.raises(BadValue):
        sgd(lr="fast")


def values(schedule, steps: int = 101) -> list[float]:
    return [schedule(Moment(s, steps)) for s in range(steps)]


def test_linear_reaches_both_ends() -> None:
    v = values(linear(start=2.0, end=-1.0))
    assert v[0] == 2.0 and v[-1] == -1.0 and v[50] == pytest.approx(0.5)


def test_cosine_rises_to_the_start_and_falls_to_the_end() -> None:
    v = values(cosine(start=1.0, end=0.1, warmup=0.2))
    top = max(range(101), key=lambda i: v[i])
    assert v[0] > 0 and v[:top] == sorted(v[:top]) and v[top:] == sorted(v[top:], reverse=True)
    assert max(v) == pytest.approx(1.0) and v[-1] == pytest.approx(0.1) and top == 20
    plain = values(cosine(start=1.0, end=0.0))
    assert plain[25] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_piecewise_holds_each_value_until_its_border() -> None:
    v = values(piecewise(values=(3.0, 2.0, 1.0), until=(0.25, 0.5)))
    assert (v[24], v[25], v[49], v[50], v[100]) == (3.0, 2.0, 2.0, 1.0, 1.0)
