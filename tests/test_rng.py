"""Random streams: right distributions, independent draws, the same for whoever computes them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from limbeck.rng import Rng, _squares, _squares_here, derive

ROWS = torch.arange(20_000)


def test_uniform_and_normal_have_their_distributions() -> None:
    rng = Rng(("test", 1), ROWS)
    assert stats.kstest(rng.uniform("u", 3).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(rng.normal("n", 3).flatten().numpy(), "norm").pvalue > 1e-3


def test_integers_are_uniform() -> None:
    drawn = Rng(("test", 2), ROWS).integers("k", 7, 2)
    assert drawn.min() == 0 and drawn.max() == 6
    assert stats.chisquare(torch.bincount(drawn.flatten(), minlength=7).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("other", [("key",), ("name",), ("element",), ("row",)])
def test_draws_that_differ_in_anything_are_uncorrelated(other: tuple[str]) -> None:
    a = Rng(("a",), ROWS).uniform("x", 2)
    b = {
        "key": Rng(("b",), ROWS).uniform("x", 2)[:, 0],
        "name": Rng(("a",), ROWS).uniform("y", 2)[:, 0],
        "element": a[:, 1],
        "row": a[:, 0].roll(1),
    }[other[0]]
    assert abs(stats.pearsonr(a[:, 0].numpy(), b.numpy()).statistic) < 4 / len(ROWS) ** 0.5


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_a_row_draws_the_same_in_whatever_batch(start: int, n: int, width: int) -> None:
    whole = Rng(("k",), torch.arange(101)).normal("x", width)
    part = Rng(("k",), torch.arange(start, start + n)).normal("x", width)
    assert torch.equal(whole[start : start + n], part)


def test_never_zero_and_never_one() -> None:
    drawn = Rng(("ends",), torch.arange(200_000)).uniform("u", 10)
    assert drawn.min() > 0 and drawn.max() < 1


@given(st.lists(st.one_of(st.integers(), st.text(max_size=5)), min_size=1, max_size=4))
def test_keys_are_kept_apart(key: list[object]) -> None:
    assert derive(*key) != derive(*key, 0) and 0 <= derive(*key) < 2**63


@pytest.mark.parametrize(("rows", "n"), [(1, 1), (7, 3), (40, 2000)])
def test_the_way_of_the_processor_and_that_of_other_devices_give_the_same_bits(rows: int, n: int) -> None:
    counted, keys = torch.arange(5, 5 + rows), [derive("k", r) | 1 for r in range(rows)]
    counters = (counted[:, None] << 32) + torch.arange(n)
    for key in (keys[0], torch.tensor(keys)[:, None]):
        assert torch.equal(_squares_here(counted, n, key), _squares(counters, key))
