"""Significance: intervals and paired tests over rows of held-out data, and over seeds.

Rows are the unit that is resampled: n rows, each with one score per model. Seeds are too few for that: there it is
Student's t. What rows or seeds cannot tell is None, never a guess.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from limbeck.errors import BadData

__all__ = [
    "Floats",
    "Interval",
    "Statistic",
    "bootstrap",
    "column_of",
    "mean_interval",
    "mean_of",
    "sign_flip_test",
    "statistic_test",
    "student_t",
]

Floats = NDArray[np.float64]
Statistic = Callable[..., Any]


class Interval(NamedTuple):
    """A value with the ends of its 95% interval; None where the rows cannot tell."""

    value: float
    low: float | None = None
    high: float | None = None


def column_of(name: str, values: ArrayLike) -> Floats:
    """One finite number per row, as an array (n,).

    Raises:
        BadData: no rows, another shape, or a value that is not finite.
    """
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or not column.size:
        raise BadData(f"{name}: expected one number per row, got an array of shape {column.shape}")
    if not np.isfinite(column).all():
        raise BadData(f"{name} holds NaN or infinity, first in row {int(np.flatnonzero(~np.isfinite(column))[0])}")
    return column


def mean_of(scores: Floats) -> Statistic:
    """The mean over rows as a statistic that takes many resamples at once."""

    def mean(rows: NDArray[np.intp], axis: int = -1) -> Any:
        return scores[rows].mean(axis=axis)

    return mean


def _resample(statistic: Statistic, n: int, level: float, resamples: int, seed: int, method: str) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return stats.bootstrap(
            (np.arange(n),),
            statistic,
            n_resamples=resamples,
            batch=max(1, 4_000_000 // n),
            confidence_level=level,
            method=method,
            rng=np.random.default_rng(seed),
        )


def bootstrap(statistic: Statistic, n: int, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The bootstrap interval of a statistic of rows: BCa up to 2000 rows, percentiles beyond.

    Args:
        statistic: a function of row indices (n,), with repetitions; one with a parameter `axis` takes many at once.
        n: the number of rows.
        level: the coverage.
        resamples: the number of resamples.
        seed: of the resampling.

    Returns:
        The value on all rows with its interval; no interval for a single row, where all resamples agree, or where more
        than one in twenty leaves the statistic undefined.

    Raises:
        BadData: the statistic is not finite on the rows themselves.

    Example:
        >>> scores = np.arange(10.0)
        >>> bootstrap(lambda rows: np.median(scores[rows]), 10).value
        4.5

    Source: Efron, "Better bootstrap confidence intervals", JASA 82 (1987), https://doi.org/10.2307/2289144.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        value = float(statistic(np.arange(n)))
    if not math.isfinite(value):
        raise BadData(f"the statistic is {value} on the {n} rows given")
    if n < 2:
        return Interval(value)
    # BCa's jackknife asks for n more evaluations of n rows; beyond 2000 rows percentiles are as good.
    result = _resample(statistic, n, level, resamples, seed, "BCa" if n <= 2000 else "percentile")
    low, high = map(float, result.confidence_interval)
    if not (math.isfinite(low) and math.isfinite(high)):
        drawn = result.bootstrap_distribution
        drawn = drawn[np.isfinite(drawn)]
        if drawn.size < 0.95 * resamples:
            return Interval(value)
        low, high = map(float, np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    return Interval(value, low, high) if low < high else Interval(value)


def mean_interval(scores: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of the rows' scores with its bootstrap interval.

    Where all rows are right, or all wrong, resampling cannot tell how sure that is: Wilson's interval is given instead.

    Args:
        scores: (n,) one score per row.
        level: the coverage.
        resamples: the number of resamples.
        seed: of the resampling.

    Raises:
        BadData: no rows, or a score that is not finite.

    Example:
        >>> print("%.2f from %.2f to %.2f" % mean_interval([1.0] * 20))
        1.00 from 0.84 to 1.00
    """
    column = column_of("scores", scores)
    if np.ptp(column) == 0 and column[0] in (0, 1):
        ci = stats.binomtest(int(column.sum()), column.size).proportion_ci(level, method="wilson")
        return Interval(float(column[0]), float(ci.low), float(ci.high))
    return bootstrap(mean_of(column), column.size, level=level, resamples=resamples, seed=seed)


def sign_flip_test(differences: ArrayLike, *, resamples: int = 9999, seed: int = 0) -> tuple[float, float]:
    """Test that paired differences are symmetric about 0, by flipping their signs; exact where that is possible.

    p = P(|sum_i s_i d_i| >= |sum_i d_i|), s_i = +-1 with equal chances; for differences of one size (right or wrong)
    this is McNemar's exact test.

    Args:
        differences: (n,) score of one model minus that of the other, per row; rows without difference say nothing.
        resamples: sign patterns drawn where there are more than that.
        seed: of the drawing.

    Returns:
        The two-sided p-value, and the smallest that the test could have given.

    Raises:
        BadData: no rows, or a difference that is not finite.

    Example:
        >>> sign_flip_test([1, 1, 1, 1, 0])
        (0.125, 0.125)
    """
    d = column_of("differences", differences)
    d = d[d != 0]
    if not d.size:
        return 1.0, 1.0
    if np.ptp(np.abs(d)) == 0:
        return float(stats.binomtest(int((d > 0).sum()), d.size).pvalue), 2.0 ** (1 - d.size)
    exact = d.size <= math.log2(resamples)
    rng, flipped = np.random.default_rng(seed), []
    for start in range(0, 2**d.size if exact else resamples, 1000):
        many = min(1000, (2**d.size if exact else resamples) - start)
        flipped.append(_signs(many, d.size, start if exact else rng) @ d)
    # rounding must not part sums that are equal
    far = int((np.abs(np.concatenate(flipped)) >= abs(d.sum()) * (1 - 1e-9)).sum())
    if exact:
        return far / 2**d.size, 2.0 ** (1 - d.size)
    return (1 + far) / (1 + resamples), 1 / (1 + resamples)


def _signs(many: int, n: int, source: int | np.random.Generator) -> Floats:
    """Rows of n signs: the patterns counted from a number, or random ones."""
    if isinstance(source, int):
        patterns = np.arange(source, source + many)[:, None] >> np.arange(n)
        return np.where(patterns & 1, 1.0, -1.0)
    raw = np.frombuffer(source.bytes(many * -(-n // 8)), dtype=np.uint8).reshape(many, -1)
    return np.where(np.unpackbits(raw, axis=1, count=n), 1.0, -1.0)


def statistic_test(
    after: Statistic, other: Statistic, n: int, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Test that a statistic of the rows (a correlation, an F score) is equal for two models, by paired bootstrap.

    p = P(|D* - D| >= |D|), where D is the difference and D* that of rows drawn with repetition.

    Args:
        after: a function of row indices (n,), for one model.
        other: the same for the other model.
        n: the number of rows.
        resamples: the number of resamples.
        seed: of the resampling.

    Returns:
        The two-sided p-value, and the smallest that the test could have given.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 16,
        https://doi.org/10.1201/9780429246593.
    """
    observed = float(after(np.arange(n)) - other(np.arange(n)))
    if observed == 0 or n < 2:
        return 1.0, 1.0 / (resamples + 1)
    drawn = _resample(
        lambda rows: after(rows) - other(rows), n, 0.95, resamples, seed, "percentile"
    ).bootstrap_distribution
    drawn = drawn[np.isfinite(drawn)]
    as_far = int((np.abs(drawn - observed) >= abs(observed)).sum())
    return (1 + as_far) / (1 + drawn.size), 1 / (1 + drawn.size)


def student_t(figures: ArrayLike, *, level: float = 0.95) -> tuple[Interval, float | None]:
    """The mean of a few figures, one a run, with Student's interval; and the test that it is 0, for paired differences.

    m +- t_{(1 + level) / 2, n - 1} s / sqrt(n);  p = P(|T_{n-1}| >= |m| sqrt(n) / s)

    Args:
        figures: (n,) one figure a run, taken as normal and independent.
        level: the coverage.

    Returns:
        The mean with its interval, and the two-sided p-value; neither interval nor p for one run, or where all agree.

    Raises:
        BadData: no figures, or one that is not finite.

    Example:
        >>> interval, p = student_t([1.0, 2.0, 3.0])
        >>> print("%.2f from %.2f to %.2f, p = %.3f" % (*interval, p))
        2.00 from -0.48 to 4.48, p = 0.074

    Source: Student, "The probable error of a mean", Biometrika 6 (1908), https://doi.org/10.2307/2331554.
    """
    column = column_of("figures", figures)
    mean = float(column.mean())
    if np.ptp(column) <= 1e-12 * np.abs(column).max():
        return Interval(mean), None
    test = stats.ttest_1samp(column, 0.0)
    ends = test.confidence_interval(level)
    return Interval(mean, float(ends.low), float(ends.high)), float(test.pvalue)
