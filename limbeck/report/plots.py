"""Drawings as inline SVG: they take their colours from the page, so that they are read in light and in dark.

Classes `teacher`, `before` and `after` colour a model; `ink` and `faint` are text and grid.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape
from scipy.ndimage import gaussian_filter

from limbeck.evaluate import Calibration, Interval
from limbeck.report.words import number
from limbeck.significance import Floats

__all__ = ["curve", "dots", "lines", "picture", "reliability", "scatter", "ticks", "whisker"]

WIDTH, HEIGHT = 320, 200
LEFT, RIGHT, TOP, BOTTOM = 50, 308, 12, 160
POINTS = 160
ROW, EDGE, NAME = 36, 20, 34  # of a dot plot: the height of a row, the margin at both sides, letters of a name
CELLS = 96  # of a density, along each axis
SHARES = (0.99, 0.7, 0.3)  # of the data, that lie inside the steps of a density

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


def picture(title: str, says: str, png: bytes, width: int = WIDTH) -> Markup:
    """A picture of pixels, kept inside the page and shown without smoothing.

    Args:
        title: what it is.
        says: the same as it says, in words.
        png: the file.
        width: to which it is scaled; its height follows.

    Example:
        >>> "data:image/png;base64," in picture("a", "b", bytes(16) + (8).to_bytes(4) + (4).to_bytes(4))
        True
    """
    across, down = int.from_bytes(png[16:20]), int.from_bytes(png[20:24])  # where PNG keeps its size
    height = round(width * down / max(1, across))
    data = base64.b64encode(png).decode()
    body = (
        f'<image href="data:image/png;base64,{data}" width="{width}" height="{height}" '
        'style="image-rendering: pixelated"/>'
    )
    return _svg(title, says, body, width, height)


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


def _axes(x: Scale, y: Scale, xs: Sequence[float], ys: Sequence[float], xlabel: str, bottom: float = BOTTOM) -> str:
    """Grid lines and labels."""
    out = [
        f'<line class="faint" x1="{LEFT}" x2="{RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text class="ink" text-anchor="end" x="{LEFT - 6}" y="{y(v) + 4:.1f}">{_tick(v)}</text>'
        for v in ys
    ]
    for v in xs:
        out.append(f'<text class="ink" text-anchor="middle" x="{x(v):.1f}" y="{bottom + 17}">{_tick(v)}</text>')
    middle = (LEFT + RIGHT) / 2
    out.append(f'<text class="ink" text-anchor="middle" x="{middle}" y="{bottom + 36}">{escape(xlabel)}</text>')
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


def lines(
    title: str,
    says: str,
    series: Mapping[str, Mapping[int, Interval]],
    xlabel: str,
    made: Mapping[str, Collection[int]] | None = None,
) -> Markup:
    """Draw several curves over doubling numbers, each with its name at its end; the axis of values is logarithmic.

    Args:
        title: the figure's name.
        says: what it says in words.
        series: who to number to value and interval, the numbers at least 1; what is not above 0 lies on the lower edge.
        xlabel: what the numbers count.
        made: who to the numbers that it was made for, whose marks are filled; those of all others are hollow.
    """
    numbers = sorted({n for points in series.values() for n in points})
    every = [v for points in series.values() for v in points.values()]
    values = [v.value for v in every if v.value > 0] or [1.0]
    low, high = min(values), max(values + [v.high for v in every if v.high is not None])
    if low >= high:
        low, high = low / 2, low * 2
    x = _scale(numbers[0], max(numbers[-1], 2 * numbers[0]), LEFT, RIGHT - 80, True)
    inside = _scale(low, high, BOTTOM - 4, TOP, True)

    def y(value: float) -> float:
        return inside(min(high, max(low, value)))

    body = _axes(x, y, numbers, _rungs(low, high), xlabel)
    ends = _apart([(who, y(points[max(points)].value)) for who, points in series.items()])
    for i, (who, points) in enumerate(series.items()):
        kind = "teacher" if who == "teacher" else f"after series{i % 4}"
        spots = [(x(n), y(points[n].value)) for n in sorted(points)]
        body += f'<polyline class="{kind} line" points="{_line(spots)}"/>'
        body += "".join(_whisker(x(n), v, y, kind) for n, v in points.items())
        for n, (a, b) in zip(sorted(points), spots, strict=True):
            hollow = "" if made is None or n in made.get(who, ()) else " hollow"
            body += f'<circle class="{kind.split()[0]}{hollow}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>'
        body += f'<text class="ink" x="{spots[-1][0] + 6:.1f}" y="{ends[who] + 4:.1f}">{escape(who[:14])}</text>'
    return _svg(title, says, body)


def _whisker(at: float, of: Interval, y: Scale, kind: str) -> str:
    """The interval of a point, upright."""
    if of.low is None or of.high is None:
        return ""
    return (
        f'<line class="{kind.split()[0]} thin" x1="{at:.1f}" x2="{at:.1f}" y1="{y(of.low):.1f}" y2="{y(of.high):.1f}"/>'
    )


def _rungs(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic axis, six at most.

    Example:
        >>> _rungs(1.4, 115), _rungs(1.4, 1500)
        ([2.0, 5.0, 10.0, 20.0, 50.0, 100.0], [10.0, 100.0, 1000.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1,)):
        found = [v for v in (float(f"{d}e{k}") for k in powers for d in digits) if low <= v <= high]
        if len(found) <= 6:
            break
    return found[:: math.ceil(len(found) / 6)] or [low, high]


def _apart(places: Sequence[tuple[str, float]], gap: float = 13) -> dict[str, float]:
    """Heights of names so that none covers another, in the order in which they stand."""
    out: dict[str, float] = {}
    last = -math.inf
    for who, height in sorted(places, key=lambda place: place[1]):
        last = out[who] = max(height, last + gap)
    return out


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


def dots(
    title: str,
    says: str,
    rows: Mapping[str, tuple[Sequence[float], Interval]],
    marks: Mapping[str, tuple[str, float]],
    better: str,
) -> Markup:
    """Draw figures in rows: a dot for each, and their mean with its interval.

    The axis shows all dots; intervals and marks that lie far from them are cut off, and the marks' names say so.

    Args:
        title: the figure's name.
        says: what it says in words.
        rows: name of the row to its figures, at least one in all, and their mean.
        marks: whose ("teacher", "before") to a name and a value at which a line stands.
        better: "higher" or "lower".
    """
    low, high = _span(rows, [value for _, value in marks.values()])
    x, bottom = _scale(low, high, EDGE, WIDTH - EDGE), 6 + ROW * len(rows)
    body = ""
    for v in ticks(low, high, 6):
        body += _across("faint", x(v), len(rows))
        body += f'<text text-anchor="middle" x="{x(v):.1f}" y="{bottom + 15}">{_tick(v)}</text>'
    anchor, at, arrow = ("start", EDGE, "← lower is better")
    if better == "higher":
        anchor, at, arrow = ("end", WIDTH - EDGE, "higher is better →")
    body += f'<text text-anchor="{anchor}" x="{at}" y="{bottom + 32}">{arrow}</text>'
    for i, (who, (name, value)) in enumerate(marks.items()):
        y = bottom + 49 + 17 * i
        outside = ", left of the axis" if value < low else ", right of the axis" if value > high else ""
        body += f'<line class="{who} line" x1="{EDGE}" x2="{EDGE + 22}" y1="{y - 4}" y2="{y - 4}"/>'
        body += f'<text x="{EDGE + 28}" y="{y}">{escape(name + outside)}</text>'
        body += "" if outside else _across(f"{who} line", x(value), len(rows))
    for i, (name, (values, mean)) in enumerate(rows.items()):
        body += _row(name, values, mean, x, 6 + ROW * i)
    return _svg(title, says, body, height=bottom + 40 + 17 * len(marks))


def _across(kind: str, at: float, rows: int) -> str:
    """A line across the dots of every row, which leaves the names free."""
    tops = [6 + ROW * i for i in range(rows)]
    return "".join(f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{t + 14}" y2="{t + 30}"/>' for t in tops)


def _span(rows: Mapping[str, tuple[Sequence[float], Interval]], marks: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: all figures, and of intervals and marks what lies near them."""
    values = [v for figures, _ in rows.values() for v in figures]
    far = [*marks, *(e for _, mean in rows.values() for e in mean if e is not None and math.isfinite(e))]
    low, high = min(values), max(values)
    apart = (high - low) or abs(low) / 2 or 1.0
    left, right = max(low - apart / 2, min([low, *far])), min(high + apart / 2, max([high, *far]))
    if left == right:
        left, right = left - apart / 2, right + apart / 2
    room = 0.03 * (right - left)
    return left - room, right + room


def _row(name: str, values: Sequence[float], mean: Interval, x: Scale, top: float) -> str:
    """A row of a dot plot: its name and mean above its dots."""
    shown = name if len(name) <= NAME else f"…{name[1 - NAME :]}"
    body = f'<text class="name" x="{EDGE}" y="{top + 11}">{escape(shown)}</text>'
    if mean.low is not None and mean.high is not None:
        left, right = max(2.0, x(mean.low)), min(WIDTH - 2.0, x(mean.high))
        body += f'<rect class="band" x="{left:.1f}" y="{top + 16}" width="{right - left:.1f}" height="12"/>'
    if math.isfinite(mean.value):
        at = x(mean.value)
        body += f'<line class="after line" x1="{at:.1f}" x2="{at:.1f}" y1="{top + 16}" y2="{top + 28}"/>'
        body += f'<text text-anchor="end" x="{WIDTH - EDGE}" y="{top + 11}">{number(mean.value)}</text>'
    return body + "".join(f'<circle class="after seed" cx="{x(v):.1f}" cy="{top + 22}" r="3.5"/>' for v in values)


def scatter(title: str, says: str, points: Floats, truth: Floats, who: str) -> Markup:
    """Draw samples over the density of the truth, from its own samples.

    Args:
        title: the figure's name.
        says: what it says in words.
        points: (N, 2) samples.
        truth: (M, 2) samples of the truth; the frame is theirs.
        who: whose the samples are, for the colour.
    """
    centre, half = frame(truth)
    bottom = TOP + RIGHT - LEFT
    x = _scale(centre[0] - half, centre[0] + half, LEFT, RIGHT)
    y = _scale(centre[1] - half, centre[1] + half, bottom, TOP)
    body = _axes(
        x, y, ticks(centre[0] - half, centre[0] + half, 5), ticks(centre[1] - half, centre[1] + half, 5), "", bottom
    )
    body += _density(truth, centre, half, x, y)
    inside = points[(np.abs(points - centre) <= half).all(1)]
    body += "".join(f'<circle class="{who} sample" cx="{x(a):.1f}" cy="{y(b):.1f}" r="1.6"/>' for a, b in inside)
    return _svg(title, says, body, height=bottom + 24)


def frame(truth: Floats) -> tuple[Floats, float]:
    """The centre (2,) of a square around all of the truth, with room for what strays, and half its side."""
    low, high = truth.min(0), truth.max(0)
    return (low + high) / 2, float(0.6 * (high - low).max()) or 1.0


def _density(truth: Floats, centre: Floats, half: float, x: Scale, y: Scale) -> str:
    """Steps of a smoothed histogram, each around its share of the truth."""
    ends = [(c - half, c + half) for c in centre]
    counts, xs, ys = np.histogram2d(truth[:, 0], truth[:, 1], bins=CELLS, range=ends)
    smooth = gaussian_filter(counts, 1.5)
    order = np.argsort(-smooth, axis=None)
    held = np.cumsum(counts.ravel()[order]) / counts.sum()
    steps = [smooth >= smooth.ravel()[order[np.searchsorted(held, share)]] for share in SHARES]
    return "".join(f'<path class="density" d="{"".join(_runs(inside, x, y, xs, ys))}"/>' for inside in steps)


def _runs(inside: np.typing.NDArray[np.bool_], x: Scale, y: Scale, xs: Floats, ys: Floats) -> list[str]:
    """The cells inside, row by row, neighbours joined to one rectangle."""
    out = []
    for j, column in enumerate(inside.T):
        turns = np.flatnonzero(np.diff(np.concatenate(([0], column.astype(int), [0]))))
        top, bottom = y(ys[j + 1]), y(ys[j])
        for start, stop in turns.reshape(-1, 2):
            left, right = x(xs[start]), x(xs[stop])
            out.append(f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}z")
    return out
