"""Packed sparse distributions: what is read is what was written, within the stated bounds and near the least size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, logsumexp

from limbeck.adapters.packing import Flat, Grid, pack, unpack
from limbeck.errors import BadValue

LEVEL_ERROR = 2.0**-11 + 1e-12


def drawn(rng: np.random.Generator, n: int, most: int, vocabulary: int, fixed: bool = False) -> tuple[Any, Any, Any]:
    """Ids in no order, normalised log-probabilities of kept and lost mass, and -inf where a token keeps fewer."""
    most = min(most, vocabulary)
    ids = np.stack([rng.choice(vocabulary, most, replace=False) for _ in range(n)]) if n else np.zeros((0, most), int)
    counts = np.full(n, most) if fixed else rng.integers(1, most + 1, n)
    scores = rng.exponential(rng.choice([0.01, 1.5, 8.0]), (n, most + 1))
    scores[:, -1] = np.minimum(scores[:, -1], 20)  # the most probable token of a million has more than e^-20
    scores[:, :-1][np.arange(most) >= counts[:, None]] = -np.inf
    logp = scores - logsumexp(scores, axis=1, keepdims=True)
    return ids, logp[:, :-1], logp[:, -1]


def in_order(ids: Any, logp: Any) -> tuple[Any, Any, Any]:
    """Counts, ids and log-probabilities of what is kept, token by token with ascending ids: by plain Python."""
    pairs = zip(ids, logp, strict=True)
    rows = [sorted((int(i), float(v)) for i, v in zip(a, b, strict=True) if v > -np.inf) for a, b in pairs]
    return (
        np.array([len(row) for row in rows], int), np.array([i for row in rows for i, _ in row], int),
        np.array([v for row in rows for _, v in row]),
    )  # fmt: skip


@given(
    seed=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 7), max_size=4), most=st.integers(1, 40),
    vocabulary=st.sampled_from([1, 2, 40, 50_257, 151_936, 1_000_003]),
    step=st.sampled_from([1.0, 1 / 16, 0.01, 1 / 4096]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_rows_come_back_within_the_bound(seed: int, sizes: list[int], most: int, vocabulary: int, step: float) -> None:
    rng, grid = np.random.default_rng(seed), Grid(step)
    rows = [drawn(rng, n, most, vocabulary) for n in sizes]
    found = unpack([pack(*row, grid) for row in rows], sizes, grid)
    nothing = (np.empty(0), np.empty(0), np.empty(0))
    parts = zip(nothing, *(in_order(ids, logp) for ids, logp, _ in rows), strict=True)
    counts, ids, logp = (np.concatenate(part) for part in parts)
    tail = np.concatenate([np.empty(0), *(row[2] for row in rows)])
    seen = tail > -31  # less is the edge, where it counts as nothing
    assert found.counts.tolist() == counts.tolist() and found.ids.tolist() == ids.tolist()
    assert np.abs(found.logp - logp).max(initial=0) <= step + LEVEL_ERROR
    assert np.abs(found.tail - tail).max(initial=0, where=seen) <= LEVEL_ERROR and (found.tail[~seen] < -30).all()


@given(seed=st.integers(0, 2**32), step=st.sampled_from([1.0, 1 / 16, 1 / 4096]))
@settings(max_examples=50, deadline=None)
def test_order_is_kept_and_what_is_read_is_a_distribution(seed: int, step: float) -> None:
    grid, (ids, logp, tail) = Grid(step), drawn(np.random.default_rng(seed), 6, 30, 5000, fixed=True)
    found = unpack([pack(ids, logp, tail, grid)], [6], grid)
    read, true = found.logp.reshape(6, -1), in_order(ids, logp)[2].reshape(6, -1)
    by_truth = np.take_along_axis(read, true.argsort(1), 1)
    assert (np.diff(by_truth, axis=1) >= -1e-12).all()
    assert np.allclose(np.exp(read).sum(1) + np.exp(found.tail), 1, atol=1e-12)


@given(seed=st.integers(0, 2**32), draws=st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_counts_of_draws_come_back_exactly(seed: int, draws: int) -> None:
    rng, grid = np.random.default_rng(seed), Grid(draws=draws, whole=False)
    counts = rng.multinomial(draws, rng.dirichlet(np.full(60, 0.3)), 5)
    with np.errstate(divide="ignore"):
        logp = np.log(counts / draws)
    found = unpack([pack(np.tile(np.arange(60), (5, 1)), logp, np.full(5, -np.inf), grid)], [5], grid)
    assert np.rint(np.exp(found.logp) * draws).astype(int).tolist() == counts[counts > 0].tolist()
    assert np.allclose(np.exp(found.logp), counts[counts > 0] / draws, rtol=1e-14) and (found.tail == -np.inf).all()


def test_weights_that_do_not_sum_to_one_keep_their_sum() -> None:
    grid, weights = Grid(1 / 64, whole=False), np.log([[0.7, 0.9, 0.001], [0.01, 0.02, 0.03]])
    found = unpack([pack(np.array([[5, 1, 9], [0, 1, 2]]), weights, np.full(2, -np.inf), grid)], [2], grid)
    sums = np.log(np.add.reduceat(np.exp(found.logp), [0, 3]))
    assert np.abs(sums - logsumexp(weights, axis=1)).max() <= LEVEL_ERROR
    assert np.abs(found.logp - in_order(np.array([[5, 1, 9], [0, 1, 2]]), weights)[2]).max() <= 1 / 64 + LEVEL_ERROR


def test_nothing_lost_and_nearly_everything_lost() -> None:
    logp, tail = np.log([[0.5, 0.5], [1e-9, 1e-9]]), np.array([-np.inf, np.log1p(-2e-9)])
    found = unpack([pack(np.array([[0, 1], [0, 1]]), logp, tail, Grid())], [2], Grid())
    assert found.tail[0] == -np.inf and np.allclose(found.logp, logp.ravel(), atol=LEVEL_ERROR)
    assert found.tail[1] == pytest.approx(-2e-9, rel=1e-3)


@pytest.mark.parametrize("k", [12, 50, 128])
def test_ids_that_are_equally_likely_take_little_more_than_their_entropy(k: int) -> None:
    vocabulary, rng = 151_936, np.random.default_rng(k)
    ids, logp, _ = drawn(rng, 200, k, vocabulary, fixed=True)
    equal = np.full_like(logp, -math.log(2 * k))  # all values are 0 and take a bit each
    row = pack(ids, equal, np.full(200, math.log(0.5)), Grid())
    bound = (gammaln(vocabulary + 1) - gammaln(k + 1) - gammaln(vocabulary - k + 1)) / math.log(2)
    bits = (8 * len(row)) / 200 - 16 - k
    assert bound < bits < 1.045 * bound


def test_clustered_ids_take_less_than_equally_likely_ones() -> None:
    rng = np.random.default_rng(0)
    ids = np.stack([np.unique(np.exp(rng.uniform(0, 11.9, 400)).astype(int))[:50] for _ in range(100)])
    logp = np.full(ids.shape, -math.log(100))
    bound = (gammaln(151_937) - gammaln(51) - gammaln(151_936 - 49)) / math.log(2)
    assert 8 * len(pack(ids, logp, np.full(100, math.log(0.5)), Grid())) / 100 - 16 - 50 < 0.7 * bound


@pytest.mark.parametrize(
    ("ids", "says"), [([[3, 3]], "id 3 comes twice"), ([[-4, 2]], "or is negative")], ids=["twice", "negative"]
)
def test_ids_that_cannot_be_told_apart_are_refused(ids: list[list[int]], says: str) -> None:
    with pytest.raises(BadValue, match=says):
        pack(np.array(ids), np.log([[0.5, 0.25]]), np.log([0.25]), Grid())


@pytest.mark.parametrize("step", [0.0, 2.0, 1e-5, math.nan])
def test_a_step_out_of_range_is_refused(step: float) -> None:
    with pytest.raises(BadValue, match="step must be between"):
        Grid(step)


def test_a_token_with_too_many_ids_is_refused() -> None:
    with pytest.raises(BadValue, match="at most 65535 ids"):
        pack(np.zeros((1, 65536), int), np.zeros((1, 65536)), np.zeros(1), Grid())


def test_no_rows_are_nothing() -> None:
    assert all(len(part) == 0 for part in unpack([], [], Grid())) and isinstance(unpack([], [], Grid()), Flat)
