"""Steering a few-step student: nothing at a share of nothing, the right mixture of beliefs, and who is asked when."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds._nets import fresh
from limbeck.data import Table
from limbeck.errors import BadData, BadValue
from limbeck.parts.states import few_step
from limbeck.parts.steered import sampled_rows, steered
from limbeck.players import Player, Players
from limbeck.probes.made import made_sw2
from limbeck.roles import frozen

TIMES = (1.0, 0.6, 0.3)


def cast(student, teacher) -> Players:
    def answering(value):
        return lambda batch, want: {"x0": value(batch) if callable(value) else torch.full_like(batch["x"], value)}

    return Players(
        {n: Player(n, frozen(), answer=answering(v)) for n, v in (("student", student), ("teacher", teacher))}
    )


def test_no_share_is_the_student_bit_for_bit():
    net = fresh(0, 2)
    players = cast(lambda b: net(b, frozenset({"x0"}))["x0"], 9.0)
    batch = Batch({"x": torch.zeros(50, 2)})
    plain = few_step(times=TIMES)(players, batch)
    assert torch.equal(steered(times=TIMES, share=0.0, first=3)(players, batch), plain)
    assert torch.equal(steered(times=TIMES, share=0.4, first=0)(players, batch), plain)
    assert not torch.equal(steered(times=TIMES, share=0.4)(players, batch), plain)


def test_the_last_prediction_is_a_mixture():
    batch = Batch({"x": torch.zeros(5, 2)})
    assert steered(times=(1.0,), share=0.25)(cast(2.0, 6.0), batch).unique().tolist() == [3.0]
    assert steered(times=TIMES, share=0.25, first=2)(cast(2.0, 6.0), batch).unique().tolist() == [2.0]


def test_the_teacher_sees_the_prediction_at_the_next_level():
    seen = []

    def teacher(batch):
        seen.append((float(batch["t"][0]), float(batch["x"].mean()), float(batch["x"].std())))
        return batch["x"]

    steered(times=TIMES, first=3)(cast(2.0, teacher), Batch({"x": torch.zeros(4_000, 2)}))
    assert [round(t, 3) for t, _, _ in seen] == [0.6, 0.3, 0.3]
    for t, mean, std in seen:
        assert mean == pytest.approx(2 * (1 - t), abs=0.05) and std == pytest.approx(t, abs=0.02)


def test_a_share_beyond_one_is_refused():
    with pytest.raises(BadValue, match=r"steered.share must lie in \[0, 1\], got 1.5"):
        steered(share=1.5)(cast(0.0, 0.0), Batch({"x": torch.zeros(1, 2)}))


def test_rows_are_drawn_and_measured():
    batch = sampled_rows(sampler=steered(times=(1.0,), share=0.0))(
        cast(3.0, 0.0), Batch({"x": torch.zeros(7, 2), "y": torch.arange(7)})
    )
    assert batch.x.eq(3).all() and batch.y.tolist() == list(range(7))
    data = {"test": Table({"x": torch.zeros(9, 1)}), "made": Table({"x": torch.ones(7, 1)})}
    assert made_sw2()(None, data) == pytest.approx(1.0)
    with pytest.raises(BadData, match="reads the rows 'drawn', which a stage makes: this run has made, test"):
        made_sw2(made="drawn")(None, data)
