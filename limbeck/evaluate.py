"""Evaluation: what a student keeps of its teacher, and how sure one can be of it.

Everything here works on figures that are already measured, one score per row of held-out data for each model, and so
serves every modality. The models are called by who they are: "teacher", "before" (the student before distillation) and
"after". Intervals are bootstrap intervals over rows; tests are paired, because all models answer the same rows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limbeck.cost import Cost, Speed, bytes_on_disk, measure_cost, measure_memory, measure_speed
from limbeck.errors import BadData, unknown
from limbeck.significance import (
    Floats,
    Interval,
    Statistic,
    bootstrap,
    column_of,
    mean_interval,
    mean_of,
    sign_flip_test,
    statistic_test,
)

__all__ = [
    "WHO",
    "Calibration",
    "Cost",
    "Examination",
    "Interval",
    "Quality",
    "Regression",
    "Slice",
    "Speed",
    "Versus",
    "bootstrap",
    "buckets",
    "bytes_on_disk",
    "calibration",
    "compare",
    "compare_statistic",
    "figures",
    "mean_interval",
    "measure_cost",
    "measure_memory",
    "measure_speed",
    "sign_flip_test",
    "statistic_test",
]

WHO = ("teacher", "before", "after")
FILE = "evaluation.json"


@dataclass(frozen=True)
class Versus:
    """The student after distillation against another model, on the same rows.

    Args:
        difference: after minus the other.
        p: two-sided p-value of no difference; None where it was not tested.
        floor: the smallest p-value that the test could have given on these rows.
    """

    difference: Interval
    p: float | None = None
    floor: float | None = None


@dataclass(frozen=True)
class Quality:
    """One measure of quality.

    Args:
        name: the measure, in words.
        higher_is_better: its direction.
        values: who to value.
        versus: "before" and "teacher" to the comparison of "after" with them.
        kept: the part of the teacher's value that the student after distillation has.
        n: rows that it was measured on; 0 where it is a figure without rows.
    """

    name: str
    higher_is_better: bool
    values: Mapping[str, Interval]
    versus: Mapping[str, Versus] = field(default_factory=dict)
    kept: Interval | None = None
    n: int = 0


@dataclass(frozen=True)
class Regression:
    """A row on which the student after distillation does worse than the teacher, or than it did before."""

    row: int
    fall: float
    versus: tuple[str, ...]


@dataclass(frozen=True)
class Slice:
    """Mean scores on the rows that share one value of a column; `difference` is after minus teacher (or before)."""

    column: str
    value: str
    n: int
    means: Mapping[str, float]
    against: str
    difference: Interval


@dataclass(frozen=True)
class Calibration:
    """How far confidence can be trusted: per bin (mean confidence, share right, rows), ECE and Brier score."""

    bins: tuple[tuple[float, float, int], ...]
    ece: float
    brier: float


@dataclass(frozen=True)
class Examination:
    """What was measured after a distillation; the contents of `evaluation.json`.

    Args:
        qualities: the measures, the one that decides first.
        score: what the score of one row is, in words.
        higher_is_better: the direction of that score.
        scores: who to one score per row.
        inputs: what was asked, as text, per row.
        expected: the right answer per row, where one is known.
        outputs: who to its answer per row.
        slices: name of a column to its value per row.
        confidences: who to its confidence per row, in [0, 1].
        costs: who to what it costs.
        notes: what is not known or has to be kept in mind.

    Raises:
        BadData: columns of unequal length, or a score that is not finite.
        UnknownName: a model that is not one of `WHO`.
    """

    qualities: Sequence[Quality] = ()
    score: str = "score"
    higher_is_better: bool = True
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    expected: Sequence[str] = ()
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    confidences: Mapping[str, Sequence[float]] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        models: dict[str, Mapping[str, Sequence[Any]]] = {
            "score": self.scores,
            "output": self.outputs,
            "confidence": self.confidences,
        }
        for who in [*self.costs, *(who for columns in models.values() for who in columns)]:
            if who not in WHO:
                raise unknown("model", who, WHO, where="the examination")
        columns = {"inputs": self.inputs, "expected": self.expected, **self.slices}
        columns |= {f"{kind} of {who}": column for kind, held in models.items() for who, column in held.items()}
        sizes = {name: len(column) for name, column in columns.items() if len(column)}
        if len(set(sizes.values())) > 1:
            raise BadData(f"the columns of an examination must be of one length, got {sizes}")
        _aligned(self.scores)
        _aligned(self.confidences)

    def save(self, run: Path) -> Path:
        """Write `evaluation.json` into a run directory and return its path."""
        path = run / FILE
        path.write_text(json.dumps(asdict(self), allow_nan=False, default=_plain) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, run: Path) -> Examination:
        """Read `evaluation.json` of a run directory.

        Raises:
            BadData: the file is missing, or not what `save` writes.
        """
        path = run / FILE
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            qualities = [_quality_of(q) for q in held.pop("qualities")]
            costs = {who: _cost_of(c) for who, c in held.pop("costs").items()}
            return cls(qualities=qualities, costs=costs, **held)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadData(f"cannot read {path}: {error}") from error

    def regressions(self, most: int = 20) -> list[Regression]:
        """The rows on which the score fell most from the teacher's or from the student's own before.

        Rows that both others had better come first among equal falls, then those on which the student is surest.

        Args:
            most: the number of rows, at most.

        Example:
            >>> rows = Examination(scores={"teacher": [1, 1, 0], "before": [1, 0, 0], "after": [0, 0, 1]})
            >>> [(r.row, r.versus) for r in rows.regressions()]
            [(0, ('teacher', 'before')), (1, ('teacher',))]
        """
        scores = _aligned(self.scores)
        sign = 1 if self.higher_is_better else -1
        others = [w for w in WHO[:2] if w in scores]
        if "after" not in scores or not others:
            return []
        falls = np.stack([sign * (scores[w] - scores["after"]) for w in others])
        sure = np.asarray(self.confidences.get("after", np.zeros(falls.shape[1])), dtype=np.float64)
        order = np.lexsort((-sure, -(falls > 0).sum(0), -falls.max(0)))
        worst = [int(i) for i in order if falls[:, i].max() > 0][:most]
        return [
            Regression(i, float(falls[:, i].max()), tuple(w for w, f in zip(others, falls[:, i], strict=True) if f > 0))
            for i in worst
        ]

    def by_slice(self, most: int = 20) -> list[Slice]:
        """Mean scores per value of every slice column, the worst difference to the teacher (or to before) first.

        Args:
            most: values of a column that are shown; the rarest beyond that are joined as "(other)".
        """
        scores = _aligned(self.scores)
        against = next((w for w in WHO[:2] if w in scores), "")
        if "after" not in scores or not against:
            return []
        sign = 1 if self.higher_is_better else -1
        out: list[Slice] = []
        for column, labels in self.slices.items():
            common = {v for v, _ in Counter(labels).most_common(most)}
            named = np.array([v if v in common else "(other)" for v in labels])
            rows = [(str(v), named == v) for v in dict.fromkeys(named)]
            found = [_slice(column, v, here, scores, against) for v, here in rows]
            out += sorted(found, key=lambda s: sign * s.difference.value)
        return out

    def calibrations(self) -> dict[str, Calibration]:
        """The calibration of every model whose confidences are known, where scores say right (1) or wrong (0)."""
        return {
            who: calibration(self.confidences[who], self.scores[who])
            for who in WHO
            if who in self.confidences and set(self.scores.get(who, ())) <= {0, 1} and self.scores.get(who)
        }


def _slice(column: str, value: str, here: NDArray[np.bool_], scores: Mapping[str, Floats], against: str) -> Slice:
    means = {who: float(s[here].mean()) for who, s in scores.items()}
    difference = bootstrap(mean_of((scores["after"] - scores[against])[here]), int(here.sum()))
    return Slice(column, value, int(here.sum()), means, against, difference)


def _quality_of(held: dict[str, Any]) -> Quality:
    values = {who: Interval(*v) for who, v in held.pop("values").items()}
    versus = {who: Versus(Interval(*v.pop("difference")), **v) for who, v in held.pop("versus").items()}
    kept = held.pop("kept")
    return Quality(values=values, versus=versus, kept=kept and Interval(*kept), **held)


def _cost_of(held: dict[str, Any]) -> Cost:
    speed = held.pop("speed")
    return Cost(speed=speed and Speed(**speed), **held)


def _plain(value: Any) -> Any:
    """Turn arrays, tensors and NumPy numbers into what JSON holds."""
    return value.tolist()


def _aligned(scores: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    columns = {who: column_of(f"the scores of {who!r}", s) for who, s in scores.items()}
    if len({c.size for c in columns.values()}) > 1:
        raise BadData(f"scores must be paired row by row, got { ({who: c.size for who, c in columns.items()}) }")
    return columns


def compare(name: str, scores: Mapping[str, ArrayLike], *, higher_is_better: bool = True, seed: int = 0) -> Quality:
    """Compare the models by the mean of their rows' scores.

    Args:
        name: the measure, in words.
        scores: who ("teacher", "before", "after") to one score per row, the same rows for all.
        higher_is_better: its direction.
        seed: of the resampling.

    Raises:
        BadData: rows that are not paired, or a score that is not finite.

    Example:
        >>> quality = compare("accuracy", {"teacher": [1, 1, 1, 0], "after": [1, 0, 1, 0]})
        >>> quality.values["after"].value, quality.versus["teacher"].p
        (0.5, 1.0)
    """
    columns = _aligned(scores)
    n = len(next(iter(columns.values()), ()))
    values = {who: mean_interval(c, seed=seed) for who, c in columns.items()}
    versus, kept = {}, None
    for who in _others(columns):
        d = columns["after"] - columns[who]
        p, floor = sign_flip_test(d, seed=seed)
        versus[who] = Versus(bootstrap(mean_of(d), n, seed=seed), p, floor)
    if "teacher" in versus and values["teacher"].value > 0:
        teacher, after = mean_of(columns["teacher"]), mean_of(columns["after"])
        kept = bootstrap(lambda rows, axis=-1: after(rows, axis) / teacher(rows, axis), n, seed=seed)
    return Quality(name, higher_is_better, values, versus, kept, n)


def compare_statistic(
    name: str, statistics: Mapping[str, Statistic], n: int, *, higher_is_better: bool = True, seed: int = 0
) -> Quality:
    """Compare the models by a statistic of all rows together, such as a rank correlation or an F score.

    Args:
        name: the measure, in words.
        statistics: who to a function of row indices (n,), with repetitions.
        n: the number of rows.
        higher_is_better: its direction.
        seed: of the resampling.

    Raises:
        BadData: a statistic that is not finite on the rows.
    """
    values = {who: bootstrap(f, n, seed=seed) for who, f in statistics.items()}
    versus, kept = {}, None
    for who in _others(statistics):
        after, other = statistics["after"], statistics[who]
        p, floor = statistic_test(after, other, n, seed=seed)
        difference = bootstrap(lambda rows, a=after, b=other: a(rows) - b(rows), n, seed=seed)
        versus[who] = Versus(difference, p, floor)
    if "teacher" in versus and values["teacher"].value > 0:
        after, teacher = statistics["after"], statistics["teacher"]
        kept = bootstrap(lambda rows: _share(after(rows), teacher(rows)), n, seed=seed)
    return Quality(name, higher_is_better, values, versus, kept, n)


def _share(part: float, whole: float) -> float:
    """The one by the other; undefined where that is 0, as it may be on a few rows that were drawn."""
    return part / whole if whole else math.nan


def figures(name: str, values: Mapping[str, float], *, higher_is_better: bool = True) -> Quality:
    """A measure of which only one figure per model is known: no interval, no test.

    Raises:
        BadData: a figure that is not finite.
    """
    for who, value in values.items():
        if not math.isfinite(value):
            raise BadData(f"{name} of {who!r} is {value}")
    after = values.get("after")
    versus = {who: Versus(Interval(after - values[who])) for who in _others(values)} if after is not None else {}
    teacher = values.get("teacher", 0.0)
    kept = Interval(after / teacher) if after is not None and teacher > 0 else None
    return Quality(name, higher_is_better, {w: Interval(float(v)) for w, v in values.items()}, versus, kept)


def _others(models: Mapping[str, Any]) -> list[str]:
    """Whom the student after distillation is compared with."""
    for who in models:
        if who not in WHO:
            raise unknown("model", who, WHO, where="a comparison")
    return [who for who in ("before", "teacher") if who in models and "after" in models]


def calibration(confidences: ArrayLike, right: ArrayLike, *, bins: int = 10) -> Calibration:
    """Compare confidence with the share of right answers, in bins of equal width.

    ECE = sum_b n_b / n |accuracy_b - confidence_b|; Brier = mean (confidence - right)^2.

    Args:
        confidences: (n,) in [0, 1].
        right: (n,) 1 where the answer was right, 0 where it was wrong.
        bins: the number of bins; empty ones are left out.

    Raises:
        BadData: a confidence outside [0, 1], or an answer that is neither right nor wrong.

    Example:
        >>> calibration([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0]).ece
        0.0

    Source: Guo et al., "On calibration of modern neural networks", arXiv:1706.04599, equation 3.
    """
    both = _aligned({"confidence": confidences, "right": right})
    c, r = both["confidence"], both["right"]
    if c.min() < 0 or c.max() > 1 or not np.isin(r, (0, 1)).all():
        raise BadData("calibration needs confidences in [0, 1] and answers that are right (1) or wrong (0)")
    bin_of = np.minimum((c * bins).astype(int), bins - 1)
    held = [(bin_of == b) for b in np.unique(bin_of)]
    rows = tuple((float(c[h].mean()), float(r[h].mean()), int(h.sum())) for h in held)
    ece = sum(n * abs(a - b) for a, b, n in rows) / c.size
    return Calibration(rows, float(ece), float(((c - r) ** 2).mean()))


def buckets(values: ArrayLike, *, into: int = 4) -> list[str]:
    """Name the quantile bucket of every value, to slice by a number such as length.

    Args:
        values: (n,) one number per row.
        into: the number of buckets; equal edges join.

    Example:
        >>> buckets([1, 2, 3, 40], into=2), buckets([7, 7])
        (['1 to 2', '1 to 2', '3 to 40', '3 to 40'], ['7', '7'])
    """
    column = column_of("values", values)
    edges = np.unique(np.quantile(column, np.linspace(0, 1, into + 1)[1:-1]))
    bucket = np.searchsorted(edges, column, side="left")
    ends = {int(b): (column[bucket == b].min(), column[bucket == b].max()) for b in np.unique(bucket)}
    names = {b: f"{low:g} to {high:g}" if low < high else f"{low:g}" for b, (low, high) in ends.items()}
    return [names[int(b)] for b in bucket]
