"""Sources: order that is a function of the step, tables that refuse what cannot be learned from, and fingerprints."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data import Table, batch_of, rows_of_step
from limbeck.errors import BadData


@given(n=st.integers(1, 40), size=st.integers(1, 60), passes=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_pass_reads_every_row_once_and_drops_none(n: int, size: int, passes: int) -> None:
    steps = -(-passes * n // size)
    read = torch.cat([rows_of_step(n, s, size, "key") for s in range(steps)])
    assert len(read) == steps * size
    for e in range(passes):
        assert sorted(read[e * n : (e + 1) * n].tolist()) == list(range(n))


def test_the_order_depends_on_the_key_and_the_pass_and_nothing_else() -> None:
    def order(*key: object, step: int = 0) -> list[int]:
        return rows_of_step(100, step, 100, *key).tolist()

    assert order(0, "distill") == order(0, "distill")
    orders = [order(0, "distill"), order(1, "distill"), order(0, "warm"), order(0, "distill", step=1)]
    assert len({tuple(o) for o in orders}) == 4


def test_the_order_is_shuffled_evenly() -> None:
    # each of 5 rows comes first in a fifth of 2,000 orders: binomial, five deviations are 0.045
    first = Counter(int(rows_of_step(5, 0, 1, seed)[0]) for seed in range(2000))
    assert all(abs(first[row] / 2000 - 0.2) < 0.045 for row in range(5))


def test_a_resumed_epoch_reads_what_the_uninterrupted_one_would() -> None:
    whole = [rows_of_step(23, s, 7, 3, "distill") for s in range(9)]
    later = [rows_of_step(23, s, 7, 3, "distill") for s in range(5, 9)]
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], later, strict=True))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({}, "at least one row, got no column"),
        ({"x": torch.empty(0, 2)}, "at least one row"),
        ({"x": torch.zeros(3), "y": [1, 2]}, r"columns of one length.*'x': 3, 'y': 2"),
        ({"x": torch.tensor([[0.0, 1.0], [2.0, float("nan")]])}, "column 'x' holds NaN or infinity, first in row 1"),
        ({"x": torch.tensor([1.0, 2.0, float("inf")])}, "first in row 2"),
    ],
)
def test_tables_that_cannot_be_learned_from_are_refused(columns: dict[str, object], says: str) -> None:
    with pytest.raises(BadData, match=says):
        Table(columns)  # type: ignore[arg-type]


def test_rows_come_in_the_order_asked_and_may_repeat() -> None:
    table = Table({"x": torch.arange(4.0), "name": ["a", "b", "c", "d"]})
    taken = table.take(torch.tensor([3, 1, 1]))
    assert taken["x"].tolist() == [3.0, 1.0, 1.0] and taken["name"] == ["d", "b", "b"]
    assert len(table) == 4


def test_a_fingerprint_sees_every_change_and_only_changes() -> None:
    def of(**columns: object) -> str:
        return Table(columns).fingerprint  # type: ignore[arg-type]

    x, y = torch.arange(6.0).view(3, 2), ["a", "b", "c"]
    same = of(x=x, y=y)
    assert same == of(y=list(y), x=x.clone()) == of(x=x.t().contiguous().t(), y=y)
    changed = [
        of(x=x + torch.tensor([[0, 0], [0, 0], [0, 1e-6]]).double(), y=y),
        of(x=x.flip(0), y=y),
        of(x=x.double(), y=y),
        of(x=x.view(3, 2, 1), y=y),
        of(x=x, y=["a", "b", "d"]),
        of(z=x, y=y),
        of(x=x),
    ]
    assert len({same, *changed}) == len(changed) + 1


def test_a_batch_remembers_its_rows() -> None:
    batch = batch_of(Table({"x": torch.arange(5) * 10}), torch.tensor([4, 0]))
    assert batch["x"].tolist() == [40, 0] and batch["index"].tolist() == [4, 0] and batch.size == 2
