"""Comparisons drawn: figures of recipes on a bed as a page, as Markdown and as one sheet of pictures."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from limbeck.comparison import Comparison
from limbeck.evaluate import Interval, Versus
from limbeck.report import plots
from limbeck.report.blocks import Bullets, Cell, Code, Figures, Para, Plot, Section, Table
from limbeck.report.html import Page, Story
from limbeck.report.sheet import sheet
from limbeck.report.words import interval, number, p_value, seconds
from limbeck.run import write_atomically
from limbeck.significance import student_t

__all__ = ["READ", "headline", "summary", "write_comparison"]

SEEDS = "Intervals: 95%, Student's t over seeds. Tests: two-sided, Student's t on the differences of paired seeds."
READ = (
    "Filled: a number of steps that it was made for, at its own levels. Hollow: another, at even steps, to see what is "
    "lost. What learnt its steps, or stops above the data, is read at its own alone. One evaluation is one pass of the "
    "net for one sample."
)
LIKELY = 0.05
REFERENCES = {"teacher": "teacher", "before": "untrained student"}


def write_comparison(found: Comparison, out: Path) -> Path:
    """Draw a comparison: `compare.html`, without anything outside it, `compare.md`, and the pictures in `compare.svg`.

    Args:
        found: what `limbeck.compare` gave.
        out: the directory; it is made if needed.

    Returns:
        The path of the page.

    Raises:
        RunError: the files cannot be written.
    """
    said, title = headline(found), f"{', '.join(found)} on {found.bed}"
    pictures = [*_dots(found), *_curves(found), *_scatters(found)]
    if pictures:
        write_atomically(Path(out) / "compare.svg", sheet(said, pictures).encode())
    runs = f"{found.seeds} seeds" if found.seeds > 1 else "one seed"
    about = f"Bed {found.bed}: {found.about.rstrip('.')}. {runs.capitalize()} of each recipe."
    return Page(title, [Story(title, said, about, list(_sections(found)))], SEEDS).write(Path(out) / "compare.html")


def headline(found: Comparison) -> str:
    """The one sentence that somebody who chooses reads: who leads by the first probe, and whether that is sure.

    Example:
        >>> from limbeck.probes.classification import accuracy
        >>> figures = {"kd": {"accuracy": [0.9, 0.92, 0.91]}, "alone": {"accuracy": [0.8, 0.81, 0.82]}}
        >>> headline(Comparison("digits", figures, {"accuracy": accuracy()}))
        'On digits, kd has the highest accuracy, 0.910: better than alone beyond chance (3 seeds).'
    """
    return f"On {found.bed}, {_leads(found, next(iter(found.probes)))[1]}"


def _leads(found: Comparison, probe: str) -> tuple[str, str]:
    """Who is best by a probe, and from whom seeds tell it apart: a mark, and the sentence."""
    means = {key: mean for key in found if math.isfinite((mean := _mean(found[key][probe])).value)}
    if not means:
        return "bad", f"no recipe has a finite {probe}."
    higher = found.probes[probe].spec.higher
    best = (max if higher else min)(means, key=lambda key: means[key].value)
    if len(found) == 1:
        others = ", ".join(f"{REFERENCES[who]} {number(value)}" for who, value in _marks(found, probe).items())
        return "", f"{best} has {probe} {number(means[best].value)}{f' ({others})' if others else ''}."
    if len({number(mean.value) for mean in means.values()}) == 1 and len(means) == len(found):
        return "", f"all have {probe} {number(means[best].value)}."
    said = f"{best} has the {'highest' if higher else 'lowest'} {probe}, {number(means[best].value)}"
    if found.seeds == 1:
        return "open", f"{said}, on one seed: another may turn that."
    tests = {key: _versus(found[best][probe], found[key][probe]) for key in means if key != best}
    beaten = [key for key, v in tests.items() if v.p is not None and v.p <= LIKELY]
    steady = [key for key, v in tests.items() if v.p is None and v.difference.value]
    level = [key for key in tests if key not in (*beaten, *steady)]
    if not beaten and not steady:
        return "open", f"{said}, but {found.seeds} seeds do not tell it apart from {_listed(level)}."
    told = {"better than {} beyond chance": beaten, "ahead of {} by the same on every seed": steady,
            "not told apart from {}": level}  # fmt: skip
    phrases = ", ".join(text.format(_listed(names)) for text, names in told.items() if names)
    return "open" if level else "good", f"{said}: {phrases} ({found.seeds} seeds)."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _mean(values: Sequence[float]) -> Interval:
    """The mean over seeds with its interval; not a number where a run was not finite."""
    return student_t(values)[0] if all(map(math.isfinite, values)) else Interval(math.nan)


def _versus(one: Sequence[float], other: Sequence[float]) -> Versus:
    """One recipe minus another, seed by seed; not tested where a run of either was not finite."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return Versus(*student_t(differences)) if all(map(math.isfinite, differences)) else Versus(Interval(math.nan))


def _sections(found: Comparison) -> Iterator[Section]:
    """All sections, in the order in which somebody who chooses needs them."""
    yield Section("In short", [Bullets([_sentence(*_leads(found, probe)) for probe in found.probes])])
    if drawn := _dots(found):
        note = "A dot is a seed, a line the mean, a band its 95% interval. For a slide, compare.svg holds all pictures."
        yield Section("Seed by seed", [Para(note), Figures(drawn, file="compare.svg")])
    if curved := _curves(found):
        yield Section("Quality against evaluations", [Para(READ), Figures(curved)])
    if scattered := _scatters(found):
        note = "Samples of the first run, over the density of the bed's own data (steps hold 30%, 70% and 99% of them)."
        yield Section("Samples", [Para(note), Figures(scattered)])
    yield Section("Figures", [_table(found)])
    if len(found) > 1 and found.seeds > 1:
        many = len(found) > 4
        yield Section("Differences, seed by seed", [_differences(found, probe) for probe in found.probes], folded=many)
    yield Section("What is not known", [Bullets([("open", text) for text in _doubts(found)])])
    yield Section("What ran", [_ran(found)])
    yield Section("To reproduce it", [Code(_command(found), "sh")])


def _sentence(mark: str, text: str) -> tuple[str, str]:
    return mark, text[0].upper() + text[1:] if text.startswith(("no ", "all ")) else text


# -- pictures ---------------------------------------------------------------------------------------------------------


def _dots(found: Comparison) -> list[Plot]:
    """A dot plot for each probe that has a finite figure."""
    out = []
    for probe, part in found.probes.items():
        rows = {key: ([v for v in found[key][probe] if math.isfinite(v)], _mean(found[key][probe])) for key in found}
        if not any(values for values, _ in rows.values()):
            continue
        marks = {who: (f"{REFERENCES[who]} {number(v)}", v) for who, v in _marks(found, probe).items()}
        better = "higher" if part.spec.higher else "lower"
        says = f"{part.spec.about.rstrip('.')}; {better} is better"
        out.append(Plot(probe, plots.dots(probe, says, rows, marks, better), says))
    return out


def _marks(found: Comparison, probe: str) -> dict[str, float]:
    """The mean figures of the bed's own players."""
    means = {who: _mean(held[probe]).value for who, held in found.references.items() if probe in held}
    return {who: value for who, value in means.items() if math.isfinite(value)}


def _curves(found: Comparison) -> list[Plot]:
    """The first probe against evaluations a sample, of the recipes that say how they are sampled, and the teacher."""
    series = {who: {n: _mean(v) for n, v in curve.items()} for who, curve in found.curves.items()}
    if not series or not all(math.isfinite(v.value) and v.value > 0 for c in series.values() for v in c.values()):
        return []
    probe = next(iter(found.probes))
    means = "; ".join(
        f"{who} {', '.join(f'{number(v.value)} at {n}' for n, v in c.items())}" for who, c in series.items()
    )
    says = f"{probe} by evaluations a sample, means over seeds: {means}"
    title = f"{probe} against evaluations"
    return [Plot(title, plots.lines(title, says, series, "evaluations a sample", found.made), says)]


def _scatters(found: Comparison) -> list[Plot]:
    """The truth's samples and those of each recipe, over the density of the truth."""
    if found.truth is None:
        return []
    truth = found.truth.double().numpy()
    drawn = {key: points.double().numpy() for key, points in found.samples.items()}
    first = truth[: max(map(len, drawn.values()))]
    out = [Plot("the data", plots.scatter("the data", "what a perfect student gives", first, truth, "teacher"),
                f"{len(first)} rows: what a perfect student gives")]  # fmt: skip
    centre, half = plots.frame(truth)
    for key, points in drawn.items():
        outside = int((np.abs(points - centre) > half).any(1).sum())
        says = f"{len(points)} samples" + (f", {outside} of them outside the frame" if outside else "")
        out.append(Plot(key, plots.scatter(key, says, points, truth, "after"), says))
    return out


# -- tables -----------------------------------------------------------------------------------------------------------


def summary(found: Comparison) -> dict[str, dict[str, str]]:
    """The mean of every figure with its interval, and the time of a run, in words: recipe to name to text."""
    means = {key: {p: _told(found[key][p]) for p in found.probes} for key in found}
    return {key: {**means[key], "time of a run": _time(found.seconds.get(key, ()))} for key in found}


def _told(values: Sequence[float]) -> str:
    mean = _mean(values)
    return interval(mean) if math.isfinite(mean.value) else "not finite"


def _time(spent: Sequence[float]) -> str:
    return seconds(sum(spent) / len(spent)) if spent else "not measured"


def _table(found: Comparison) -> Table:
    """The summary, with the bed's own players below."""
    rows = [[key, *told.values()] for key, told in summary(found).items()]
    for who, held in found.references.items():
        rows.append([REFERENCES[who], *(_told(held[p]) if p in held else "-" for p in found.probes), "-"])
    directions = [f"{p} ({'higher' if part.spec.higher else 'lower'} is better)" for p, part in found.probes.items()]
    caption = f"Mean over {found.seeds} seeds (95% interval)" if found.seeds > 1 else "Figures of one seed"
    return Table(caption, ["Recipe", *directions, "time of a run"], rows)


def _differences(found: Comparison, probe: str) -> Table:
    pairs = {(a, b): _versus(found[a][probe], found[b][probe]) for a, b in combinations(found, 2)}
    ends = [abs(e) for v in pairs.values() for e in v.difference if e is not None and math.isfinite(e)]
    span = max([*ends, 1e-9])
    rows: list[list[str | Cell]] = []
    for (a, b), against in pairs.items():
        d, known = against.difference, math.isfinite(against.difference.value)
        picture = Cell("", plots.whisker(d, -span, span, "after", mark=0)) if known else "-"
        rows.append(
            [f"{a} minus {b}", interval(d, span, sign=True) if known else "not finite", picture, p_value(against.p)]
        )
    better = "above 0 the first is better" if found.probes[probe].spec.higher else "below 0 the first is better"
    return Table(f"{probe}: {better}", ["Recipes", "difference (95% interval)", "", "p"], rows)


def _ran(found: Comparison) -> Table:
    rows = [[k, found.settings.get(k, "not known"), ", ".join(map(seconds, found.seconds.get(k, ())))] for k in found]
    return Table("Size and settings of each recipe, and how long its runs took on this machine, without measuring",
                 ["Recipe", "settings", "each run"], rows, wide=frozenset({0, 1, 2}))  # fmt: skip


# -- what is not known, and how to do it again ------------------------------------------------------------------------


def _doubts(found: Comparison) -> list[str]:
    """What the figures cannot tell, so that nobody reads more into them than there is."""
    out = []
    if found.seeds == 1:
        out.append("One seed: how much another would change is not known, and nothing was tested.")
    elif found.seeds < 5:
        out.append(
            f"{found.seeds} seeds are few: intervals are wide, and rest on figures that are normally distributed."
        )
    pairs = math.comb(len(found), 2) * len(found.probes)
    if found.seeds > 1 and pairs > 2:
        out.append(f"{pairs} tests were made and their p-values are not corrected for that.")
    for key in found:
        wild = sorted({i for values in found[key].values() for i, v in enumerate(values) if not math.isfinite(v)})
        if wild:
            out.append(f"{key} was NaN or infinite on seed {', '.join(map(str, wild))}: it has no mean, and no test.")
        if "this bed" not in (where := found.settings.get(key, "this bed")):
            out.append(f"{key} runs {where}: settings for this bed might do better.")
    if len(found) > 1:
        out.append("Each recipe has the budget of its own claim: steps and seconds differ (see What ran).")
    out.append(f"{found.bed} is a small world: the order of recipes need not be the same on your data.")
    return out


def _command(found: Comparison) -> str:
    return shlex.join(["limbeck", "compare", *found, "--bed", found.bed, "--seeds", str(found.seeds)])
