"""Drawings as inline SVG: they take their colours from the page, so that they are read in light and in dark.

Classes `teacher`, `before` and `after` colour a model; `ink` and `faint` are text and grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup, escape

from limbeck.evaluate import Calibration, Interval

__all__ = ["curve", "reliability", "ticks", "whisker"]

WIDTH, HEIGHT = 320, 200
LEFT, RIGHT, TOP, BOTTOM = 50, 308, 12, 160
POINTS = 160

Scale = Callable[[float], float]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) inside a range.

    Args:
        low: the lower end.
        high: the upper end.
        about: how many there should be, roughly.

    Example:
        >>> ticks(0.0, 1.0), ticks(3, 17)
        ([0.0, 0.5, 1.0], [5.0, 10.0, 15.0])
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(1, about - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _scale(low: float, high: float, start: float, end: float, log: bool = False) -> Scale:
    """A map of a range of values to a range of coordinates."""
    if log:
        inner = _scale(math.log10(low), math.log10(high), start, end)
        return lambda v: inner(math.log10(v))
    span = (high - low) or 1.0
    return lambda v: start + (v - low) / span * (end - start)


def _svg(title: str, says: str, body: str, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """A drawing that screen readers can name and describe."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, f"{title}. {says}", Markup(body)
    )


def _tick(value: float) -> str:
    size = abs(value)
    if size >= 10_000 or 0 < size < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:g}"


def _axes(x: Scale, y: Scale, xs: Sequence[float], ys: Sequence[float], xlabel: str) -> str:
    """Grid lines and labels."""
    out = [
        f'<line class="faint" x1="{LEFT}" x2="{RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text class="ink" text-anchor="end" x="{LEFT - 6}" y="{y(v) + 4:.1f}">{_tick(v)}</text>'
        for v in ys
    ]
    for v in xs:
        out.append(f'<text class="ink" text-anchor="middle" x="{x(v):.1f}" y="{BOTTOM + 17}">{_tick(v)}</text>')
    middle = (LEFT + RIGHT) / 2
    out.append(f'<text class="ink" text-anchor="middle" x="{middle}" y="{HEIGHT - 4}">{escape(xlabel)}</text>')
    return "".join(out)


def _line(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float, float, float]]:
    """Join neighbours until at most `POINTS` are left: (step, mean, least, most) of each group."""
    size = math.ceil(len(points) / POINTS)
    groups = [np.array(points[i : i + size], dtype=float) for i in range(0, len(points), size)]
    return [(float(g[:, 0].mean()), float(g[:, 1].mean()), float(g[:, 1].min()), float(g[:, 1].max())) for g in groups]


def curve(title: str, says: str, points: Sequence[tuple[int, float]]) -> Markup:
    """Draw a learning curve: the mean over neighbouring steps, in the band between the least and the most.

    Args:
        title: the figure's name.
        says: what it says in words.
        points: (step, value), at least one; the axis is logarithmic where positive values span a factor above 100.
    """
    groups = thinned(points)
    low, high = min(g[2] for g in groups), max(g[3] for g in groups)
    log = low > 0 and high / low > 100
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    first, last = groups[0][0], groups[-1][0]
    x, y = _scale(first, last, LEFT, RIGHT), _scale(low, high, BOTTOM, TOP, log)
    decades = [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)] if log else []
    ys = decades[:: math.ceil(len(decades) / 4)] if log else ticks(low, high)
    body = _axes(x, y, [v for v in ticks(first, last, 5) if v == int(v)], ys, "step")
    if len(points) > POINTS:
        band = [(x(g[0]), y(g[3])) for g in groups] + [(x(g[0]), y(g[2])) for g in reversed(groups)]
        body += f'<polygon class="band" points="{_line(band)}"/>'
    body += f'<polyline class="after line" points="{_line([(x(g[0]), y(g[1])) for g in groups])}"/>'
    if len(groups) <= 20:
        body += "".join(f'<circle class="after" cx="{x(g[0]):.1f}" cy="{y(g[1]):.1f}" r="3"/>' for g in groups)
    return _svg(title, says, body)


def reliability(title: str, says: str, found: Calibration, who: str) -> Markup:
    """Draw a reliability diagram: confidence against the share right; the larger a dot, the more rows.

    Args:
        title: the figure's name.
        says: what it says in words.
        found: the bins.
        who: whose they are, for the colour.
    """
    x, y = _scale(0, 1, LEFT, RIGHT), _scale(0, 1, BOTTOM, TOP)
    most = max(n for _, _, n in found.bins)
    body = _axes(x, y, [0, 0.5, 1], [0, 0.5, 1], "confidence")
    body += f'<line class="ink dashed" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>'
    body += f'<polyline class="{who} line thin" points="{_line([(x(c), y(a)) for c, a, _ in found.bins])}"/>'
    for c, a, n in found.bins:
        body += f'<circle class="{who}" cx="{x(c):.1f}" cy="{y(a):.1f}" r="{2 + 5 * math.sqrt(n / most):.1f}"/>'
    return _svg(title, says, body)


def whisker(of: Interval, low: float, high: float, who: str, *, mark: float | None = None) -> Markup:
    """Draw a value and its interval on a small axis, for a cell of a table.

    Args:
        of: the value and its interval.
        low: the left end of the axis.
        high: its right end.
        who: whose it is, for the colour.
        mark: a value at which a line stands, such as 0 for differences.
    """
    x = _scale(low, high, 5, 135)
    body = '<line class="faint" x1="0" x2="140" y1="10" y2="10"/>'
    if mark is not None:
        body += f'<line class="ink" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="2" y2="18"/>'
    if of.low is not None and of.high is not None:
        body += f'<line class="{who} line" x1="{x(of.low):.1f}" x2="{x(of.high):.1f}" y1="10" y2="10"/>'
    body += f'<circle class="{who}" cx="{x(of.value):.1f}" cy="10" r="4"/>'
    return Markup('<svg class="whisker" viewBox="0 0 140 20" aria-hidden="true">{}</svg>').format(Markup(body))
