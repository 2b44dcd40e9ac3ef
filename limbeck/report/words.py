"""Numbers and comparisons in words, the same in the page, in Markdown and in the model card."""

from __future__ import annotations

import math
from collections.abc import Mapping

from limbeck.evaluate import Cost, Examination, Interval, Quality, Versus

__all__ = [
    "MODELS",
    "bytes_of",
    "count",
    "ends_of",
    "faster",
    "headline",
    "interval",
    "number",
    "p_value",
    "seconds",
    "times",
    "versus",
]

MODELS = {"teacher": "teacher", "before": "student before", "after": "student after"}


def number(value: float, scale: float | None = None) -> str:
    """A figure with as many decimals as numbers of that scale deserve.

    Args:
        value: the figure.
        scale: the largest of the figures it stands with; its own size by default.

    Example:
        >>> number(0.91234), number(0.5, 120.0), number(12345.6), number(0.000012)
        ('0.912', '0.5', '12,346', '1.2e-05')
    """
    size = abs(value if scale is None else scale)
    if not size:
        return "0"
    if size < 1e-3 or size >= 1e9:
        return f"{value:.2g}"
    decimals = 4 if size < 0.1 else 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{decimals}f}"


def interval(of: Interval, scale: float | None = None, *, sign: bool = False) -> str:
    """A value with its 95% interval in words.

    Args:
        of: the value and its interval.
        scale: the largest of the figures it stands with.
        sign: whether a plus is written.

    Example:
        >>> interval(Interval(0.5, 0.4, 0.6)), interval(Interval(0.5), sign=True)
        ('0.500 (0.400 to 0.600)', '+0.500')
    """
    plus = "+" if sign and of.value > 0 else ""
    ends = "" if of.low is None else f" ({ends_of(of, scale)})"
    return f"{plus}{number(of.value, scale)}{ends}"


def ends_of(of: Interval, scale: float | None = None) -> str:
    """The ends of an interval in words; "not known" without one.

    Example:
        >>> ends_of(Interval(0.5, 0.4, 0.6)), ends_of(Interval(0.5))
        ('0.400 to 0.600', 'not known')
    """
    if of.low is None or of.high is None:
        return "not known"
    return f"{number(of.low, scale)} to {number(of.high, scale)}"


def p_value(p: float | None, floor: float | None = None) -> str:
    """A p-value; at most that much where it is the smallest that the test could give.

    Example:
        >>> p_value(0.0312), p_value(3e-9), p_value(0.0002, 0.0002), p_value(None)
        ('0.031', '< 0.0001', '≤ 0.0002', 'not tested')
    """
    if p is None:
        return "not tested"
    if p < 1e-4:
        return "< 0.0001"
    return f"{'≤ ' if floor is not None and p <= floor < 1 else ''}{p:.2g}"


def count(n: float) -> str:
    """A number of things, shortly.

    Example:
        >>> count(66_955_010), count(812), count(1.2e9)
        ('67.0M', '812', '1.20B')
    """
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n >= 0.9995 * size:  # what would round up to the unit is said in it
            return f"{n / size:.{max(0, 2 - int(math.log10(max(1.0, n / size))))}f}{unit}"
    return f"{n:.0f}"


def bytes_of(n: float) -> str:
    """A number of bytes, in binary units.

    Example:
        >>> bytes_of(1536), bytes_of(3 * 2**20)
        ('1.5 KiB', '3.0 MiB')
    """
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(n) >= 0.99995 * size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"


def seconds(s: float) -> str:
    """A duration, from microseconds to hours.

    Example:
        >>> seconds(0.00213), seconds(75), seconds(7322)
        ('2.13 ms', '1 min 15 s', '2 h 02 min')
    """
    if s >= 3600:
        return f"{s // 3600:.0f} h {s % 3600 // 60:02.0f} min"
    if s >= 60:
        return f"{s // 60:.0f} min {s % 60 // 1:.0f} s"
    for size, unit in ((1, "s"), (1e-3, "ms")):
        if s >= size:
            return f"{s / size:.3g} {unit}"
    return f"{s * 1e6:.3g} µs"


def times(ratio: float) -> str:
    """A ratio with the decimals it deserves.

    Example:
        >>> times(3.14159), times(12.4)
        ('3.1', '12')
    """
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"


def headline(exam: Examination | None, status: str) -> str:
    """The one sentence that somebody who decides reads.

    Args:
        exam: what was measured, if anything was.
        status: how the run ended.

    Example:
        >>> headline(None, "done")
        "Nothing is known of the student's quality: the run is done, and it was not evaluated."
    """
    if exam is None or not exam.qualities:
        return f"Nothing is known of the student's quality: the run is {status}, and it was not evaluated."
    extras = [*_size(exam.costs), *_speed(exam.costs)]
    return "The student " + ", ".join([" at ".join([_kept(exam.qualities[0]), *extras[:1]]), *extras[1:]]) + "."


def _kept(q: Quality) -> str:
    values = {who: number(v.value) for who, v in q.values.items()}
    if "after" not in values:
        return f"was not measured by {q.name}"
    if q.kept is None:
        was = f" ({values['before']} before)" if "before" in values else ""
        return f"has {q.name} {values['after']}{was}"
    if not q.higher_is_better:
        return f"has {times(q.kept.value) if q.kept.value >= 2 else f'{q.kept.value:.2f}'} times the teacher's {q.name}"
    verb = "keeps" if q.kept.value < 1 else "reaches"
    return f"{verb} {100 * q.kept.value:.{1 if 0.99 <= q.kept.value < 1 else 0}f}% of the teacher's {q.name}"


def _size(costs: Mapping[str, Cost]) -> list[str]:
    if not {"teacher", "after"} <= costs.keys() or not costs["teacher"].parameters:
        return []
    share = costs["after"].parameters / costs["teacher"].parameters
    if share > 1.02:
        return [f"{times(share)} times the parameters"]
    if share > 0.98:
        return ["the same number of parameters"]
    fraction = f"1/{1 / share:.0f}" if 0 < share <= 0.13 else f"{100 * share:.0f}%"
    return [f"{fraction} of the parameters"]


def _speed(costs: Mapping[str, Cost]) -> list[str]:
    ratio = faster(costs)
    if ratio is None:
        return []
    one, two = costs["teacher"].speed, costs["after"].speed
    assert one is not None and two is not None
    per = costs["teacher"].rows / costs["after"].rows
    if two.low * per <= one.high and one.low <= two.high * per:
        return ["about as fast on this machine"]
    return [f"{times(max(ratio, 1 / ratio))}x {'faster' if ratio > 1 else 'slower'} on this machine"]


def faster(costs: Mapping[str, Cost]) -> float | None:
    """How many times faster the student answers a row than the teacher, by medians; None where not measured."""
    cost = [costs.get(who) for who in ("teacher", "after")]
    if any(c is None or c.speed is None or not c.rows or not c.speed.median for c in cost):
        return None
    one, two = (c.speed.median / c.rows for c in cost)  # type: ignore[union-attr]
    return float(one / two)


def versus(q: Quality, who: str, found: Versus) -> tuple[str, str]:
    """Say whether the student after distillation differs from another model, and in which direction.

    Args:
        q: the measure.
        who: "teacher" or "before".
        found: the comparison.

    Returns:
        "good", "bad" or "open", and a sentence.
    """
    other = "the teacher" if who == "teacher" else "the student before distillation"
    d = found.difference
    size = interval(d, max(abs(v.value) for v in q.values.values()), sign=True)
    told = f"{q.name} {size}, p {p_value(found.p, found.floor)}".replace("p 0", "p = 0").replace("p 1", "p = 1")
    if found.p is None:
        return "open", f"Against {other}: {q.name} {size}; not tested."
    if found.p > 0.05:
        return "open", f"No difference to {other} was shown: {told}. A difference within the interval is not excluded."
    better = (d.value > 0) is q.higher_is_better
    return ("good" if better else "bad"), f"{'Better' if better else 'Worse'} than {other}: {told}."
