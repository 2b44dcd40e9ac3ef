"""Sparse distributions in few bytes: ids by the gaps between them, log-probabilities as whole numbers.

A row of n target tokens, each with its own number of ids, becomes one string of bytes:

    head        parameters of the two codes, the bits of a count, the largest count, the bytes of unary codes
    levels      16 bits a token: how the mass is shared between what is kept and what is not (not for counted draws)
    counts      how many ids a token keeps, as its distance from the largest count
    unary       the classes of all gaps, then of all values: class e is e zeros and a one
    low bits    what is left of the gaps, then of the values

Ids are sorted and coded by the gaps between them. Any k of V ids that are equally likely cost at least log2 C(V, k)
bits, about k log2(e V / k); the exponential Golomb code of the gaps takes 2 to 4% more there, and less than that bound
where ids cluster, as those of frequent tokens do. A gap g has the class e = floor(log2(g / 2^w + 1)) and w + e low
bits. Values decay like an exponential (the tail of a Zipf law in the log), for which Rice's code is best: the class of
v is floor(v / 2^w), with w low bits. w is chosen for each row.

Shapes: N tokens, K ids of a token, M ids of all tokens, R rows. Flat arrays hold the ids of token after token.

Source: Golomb, "Run-length encodings", IEEE Trans. Inf. Theory 12 (1966); Teuhola, "A compression method for clustered
bit-vectors", Inf. Process. Lett. 7 (1978), for the exponential variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from limbeck.errors import BadValue

__all__ = ["Flat", "Grid", "pack", "unpack"]

Array = np.ndarray[Any, Any]

HEAD = np.dtype([("gap", "u1"), ("value", "u1"), ("bits", "u1"), ("most", "<u2"), ("unary", "<u4")])
LEVEL = 1 / 1024  # nats between levels
EDGE = 32767  # the level at which nothing is lost, and its negative


class Flat(NamedTuple):
    """Sparse distributions of N tokens: counts (N,), ids (M,), logp (M,), tail (N,) the log of the mass not kept."""

    counts: Array
    ids: Array
    logp: Array
    tail: Array


@dataclass(frozen=True)
class Grid:
    """How the log-probabilities of a token become whole numbers, and back.

    v_i = round((log p_i - min_j log p_j) / step), and log p_i = log kept + step v_i - log sum_j exp(step v_j)

    Order is kept. Where kept and lost mass add up to 1, their log-odds are stored beside the v, so what is read is a
    distribution again. Rounding moves v by at most 1/2 and the sum by at most as much: |error| <= step + 2^-11 nats.
    Of odds beyond e^32 only that is kept: there, nothing is lost. Draws of which every weight is a count are stored as
    counts, without error.

    Args:
        step: nats between neighbours.
        draws: the number of draws, if weights are counts of it; else 0.
        whole: kept and lost mass add up to 1; otherwise the sum of the weights is stored in place of their odds.

    Raises:
        BadValue: a step outside [1/4096, 1].

    Example:
        >>> Grid(0.5).values(np.log([[0.7, 0.2, 0.1]])).tolist()
        [[4, 1, 0]]
    """

    step: float = 1 / 16
    draws: int = 0
    whole: bool = True

    def __post_init__(self) -> None:
        if not 1 / 4096 <= self.step <= 1:
            raise BadValue(f"step must be between 1/4096 and 1 nat, got {self.step:g}")

    def values(self, logp_NK: Array) -> Array:
        """The whole numbers (N, K) of log-probabilities; what they are of -inf means nothing.

        Args:
            logp_NK: at least one of each token is finite.
        """
        if self.draws:
            return np.rint(np.exp(logp_NK) * self.draws).astype(np.int64) - 1
        finite = np.isfinite(logp_NK)
        least = logp_NK.min(1, where=finite, initial=np.inf)[:, None]
        return np.rint(np.where(finite, logp_NK - least, 0.0) / self.step).astype(np.int64)

    def levels(self, logp_NK: Array, tail_N: Array) -> Array:
        """The levels (N,) int16: the log-odds of kept to lost mass, or the log of the kept."""
        kept_N = np.logaddexp.reduce(logp_NK, 1)
        odds_N = kept_N - tail_N if self.whole else kept_N
        return np.rint(np.clip(odds_N / LEVEL, -EDGE, EDGE)).astype("<i2")

    def logp(self, values_M: Array, counts_N: Array, levels_N: Array) -> tuple[Array, Array]:
        """Log-probabilities (M,) and the log of the lost mass (N,), from whole numbers and levels."""
        if self.draws:
            return np.log((values_M + 1) / self.draws), np.full(len(counts_N), -np.inf)
        kept_N = odds_N = np.where(levels_N == EDGE, np.inf, levels_N * LEVEL)
        tail_N = np.full(len(counts_N), -np.inf)
        if self.whole:
            kept_N, tail_N = -np.logaddexp(0.0, -odds_N), -np.logaddexp(0.0, odds_N)
        relative_M = self.step * values_M
        sums_N = np.add.reduceat(np.exp(relative_M), _starts(counts_N)) if len(counts_N) else kept_N
        return relative_M + np.repeat(kept_N - np.log(sums_N), counts_N), tail_N


def pack(ids_NK: Array, logp_NK: Array, tail_N: Array, grid: Grid) -> bytes:
    """Write the distributions of a row's N tokens.

    Args:
        ids_NK: different ids of each token, in any order.
        logp_NK: their log-probabilities; -inf where there is none, but at least one of each token.
        tail_N: the log of the mass not kept.
        grid: how log-probabilities are rounded.

    Returns:
        The bytes; without tokens only a head.

    Raises:
        BadValue: more than 65,535 ids of a token, or one that comes twice.
    """
    if ids_NK.shape[1] > 65535:
        raise BadValue(f"a token keeps at most 65535 ids, got {ids_NK.shape[1]}")
    kept = np.isfinite(logp_NK)
    order = np.where(kept, ids_NK, np.iinfo(np.int64).max).argsort(1)
    ids_NK, logp_NK, kept = (np.take_along_axis(a, order, 1) for a in (ids_NK, logp_NK, kept))
    counts_N, ids_M = kept.sum(1), ids_NK[kept]
    before = np.concatenate(([-1], ids_M[:-1]))
    before[_starts(counts_N)] = -1
    gaps, values = ids_M - before - 1, grid.values(logp_NK)[kept]
    if (gaps < 0).any():
        raise BadValue(f"id {ids_M[gaps < 0][0]} comes twice among the targets of a token, or is negative")
    w, v = _best_gap(gaps), _best_value(values)
    classes = _gap_classes(gaps, w)
    lows = (gaps + (1 << w)) - ((1 << classes) << w), values & ((1 << v) - 1)
    widths = classes + w, np.full(len(values), v)
    most = int(counts_N.max(initial=0))
    bits = int(most - counts_N.min(initial=most)).bit_length()
    unary = _write_unary(np.concatenate((classes, values >> v)))
    head = np.array((w, v, bits, most, len(unary)), HEAD).tobytes()
    levels = b"" if grid.draws else grid.levels(logp_NK, tail_N).tobytes()
    counted = _write(most - counts_N, np.full(len(counts_N), bits))
    return b"".join((head, levels, counted, unary, _write(np.concatenate(lows), np.concatenate(widths))))


def unpack(rows: Sequence[bytes | memoryview], tokens: Sequence[int], grid: Grid) -> Flat:
    """Read the distributions of several rows in one pass.

    Args:
        rows: what `pack` wrote.
        tokens: the target tokens of each row.
        grid: that they were written with.

    Returns:
        The distributions of all tokens, row after row, the ids of each in ascending order.

    Example:
        >>> row = pack(np.array([[7, 3]]), np.log([[0.5, 0.25]]), np.log([0.25]), Grid(1 / 64))
        >>> found = unpack([row], [1], Grid(1 / 64))
        >>> found.ids.tolist(), np.exp(found.logp).round(2).tolist(), np.exp(found.tail).round(2).tolist()
        ([3, 7], [0.25, 0.5], [0.25])
    """
    n_R = np.asarray(tokens, np.int64)
    data = np.frombuffer(b"".join((*rows, bytes(8))), np.uint8)
    at_R = _starts(np.array([len(row) for row in rows], np.int64))
    head = np.frombuffer(b"".join(bytes(row[: HEAD.itemsize]) for row in rows), HEAD)
    at_R = at_R + HEAD.itemsize
    levels_N = np.zeros(int(n_R.sum()), np.int64)
    if not grid.draws:
        levels_N = _words(data, "<i2")[np.repeat(at_R, n_R) + 2 * _ramp(n_R)].astype(np.int64)
        at_R = at_R + 2 * n_R
    bits_R = head["bits"].astype(np.int64)
    bits_N = np.repeat(bits_R, n_R)
    counts_N = np.repeat(head["most"].astype(np.int64), n_R) - _read(
        data, np.repeat(8 * at_R, n_R) + bits_N * _ramp(n_R), bits_N
    )
    at_R = at_R + (n_R * bits_R + 7) // 8
    unary_R = head["unary"].astype(np.int64)
    m_R = _sums(counts_N, n_R)
    classes = _read_unary([data[a : a + u] for a, u in zip(at_R, unary_R, strict=True)], 2 * m_R)
    gaps, values = _unfold(data, 8 * (at_R + unary_R), m_R, classes, head)
    steps = np.cumsum(gaps + 1)
    ids_M = steps - 1 - np.repeat(np.concatenate(([0], steps))[_starts(counts_N)], counts_N)
    return Flat(counts_N, ids_M, *grid.logp(values, counts_N, levels_N))


def _unfold(data: Array, at_R: Array, m_R: Array, classes: Array, head: Array) -> tuple[Array, Array]:
    """Gaps (M,) and values (M,) of all rows, from their classes and the low bits that begin at bit `at_R`."""
    w_R, v_R = head["gap"].astype(np.int64), head["value"].astype(np.int64)
    halves = [(classes[:0], classes[:0]), *_halves(classes, m_R)]
    gap_class, value_class = (np.concatenate(half) for half in zip(*halves, strict=True))
    w, v = np.repeat(w_R, m_R), np.repeat(v_R, m_R)
    widths = w + gap_class
    ends = np.concatenate(([0], np.cumsum(widths)))
    starts_R = ends[_starts(m_R)]
    gaps = _read(data, np.repeat(at_R - starts_R, m_R) + ends[:-1], widths) + (((1 << gap_class) - 1) << w)
    after_R = at_R + ends[_starts(m_R) + m_R] - starts_R
    return gaps, _read(data, np.repeat(after_R, m_R) + v * _ramp(m_R), v) + (value_class << v)


def _halves(array: Array, sizes_R: Array) -> Iterator[tuple[Array, Array]]:
    """The halves of each of the stretches, 2 n long for n in `sizes_R`, that an array is made of."""
    for start, size in zip(2 * _starts(sizes_R), sizes_R, strict=True):
        yield array[start : start + size], array[start + size : start + 2 * size]


# -- codes ------------------------------------------------------------------------------------------------------------


def _gap_classes(gaps: Array, w: int) -> Array:
    """floor(log2(g / 2^w + 1))"""
    return np.frexp((gaps >> w) + 1.0)[1].astype(np.int64) - 1


def _best_gap(gaps: Array) -> int:
    """The w that makes the exponential Golomb code of the gaps shortest, near the size of their mean."""
    near = int(gaps.mean()).bit_length() if len(gaps) else 0
    return min(range(max(0, near - 6), near + 1), key=lambda w: int((w + 2 * _gap_classes(gaps, w)).sum()))


def _best_value(values: Array) -> int:
    """The w that makes Rice's code of the values shortest, near the size of their mean."""
    near = int(values.mean()).bit_length() if len(values) else 0
    return min(range(max(0, near - 2), near + 2), key=lambda w: int((w + (values >> w)).sum()))


def _write_unary(classes: Array) -> bytes:
    ends = np.cumsum(classes + 1)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    bits[ends - 1] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def _read_unary(pieces: Sequence[Array], n_R: Array) -> Array:
    """The classes in pieces of bytes, `n_R` in each."""
    bits = np.unpackbits(np.concatenate((*pieces, np.empty(0, np.uint8))), bitorder="little")
    ones = np.flatnonzero(bits.view(np.bool_))
    before = np.concatenate(([-1], ones[:-1]))
    full = n_R > 0
    before[_starts(n_R)[full]] = (8 * _starts(np.array([len(p) for p in pieces], np.int64)) - 1)[full]
    return ones - before[: len(ones)] - 1


def _write(values: Array, widths: Array) -> bytes:
    """Numbers of given widths in bits, the lowest bit first, filled up to whole bytes."""
    bits = (np.repeat(values, widths) >> _ramp(widths)) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def _read(data: Array, at: Array, widths: Array) -> Array:
    """Numbers of given widths from bit positions; `data` ends in 8 spare bytes."""
    words = _words(data, "<i8")[at >> 3]
    words >>= at & 7
    return words & ((1 << widths) - 1)


def _words(data: Array, kind: str) -> Array:
    """The number that begins at every byte."""
    return np.ndarray((len(data) + 1 - np.dtype(kind).itemsize,), kind, data, strides=(1,))


# -- groups of unequal size -------------------------------------------------------------------------------------------


def _starts(sizes: Array) -> Array:
    """Where each group begins."""
    return np.cumsum(sizes) - sizes


def _ramp(sizes: Array) -> Array:
    """0, 1, 2, ... in each group."""
    return np.arange(int(sizes.sum())) - np.repeat(_starts(sizes), sizes)


def _sums(numbers: Array, sizes: Array) -> Array:
    """The sum of each group."""
    ends = np.concatenate(([0], np.cumsum(numbers)))
    return ends[_starts(sizes) + sizes] - ends[_starts(sizes)]
