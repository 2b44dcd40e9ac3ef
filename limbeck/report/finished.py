"""Finished runs drawn: quality against evaluations of students and their teacher, with the pictures that they draw."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from limbeck.evaluate import Interval
from limbeck.finished import Finished, Reading
from limbeck.report import plots
from limbeck.report.blocks import Bullets, Code, Figures, Para, Plot, Section, Table
from limbeck.report.compared import READ
from limbeck.report.html import Page, Story
from limbeck.report.sheet import sheet
from limbeck.report.words import interval, number, seconds
from limbeck.run import write_atomically

__all__ = ["figures", "said", "write_finished"]

ROWS = "Intervals: 95%, bootstrap over pictures. They do not cover what another run would have changed."
TEACHER = "teacher"


def write_finished(found: Finished, out: Path) -> Path:
    """Draw a comparison of finished runs: `compare.html`, `compare.md`, the curves in `compare.svg`, `compare.json`.

    Args:
        found: what `limbeck.finished.compare_runs` gave.
        out: the directory, where the pictures are already.

    Returns:
        The path of the page.

    Raises:
        RunError: the files cannot be written.
    """
    lines = said(found)
    write_atomically(out / "compare.svg", sheet(lines[0], _curves(found)).encode())
    write_atomically(out / "compare.json", json.dumps(figures(found), indent=1).encode())
    title = f"{', '.join(found.recipes)} against evaluations"
    about = f"Distances to {found.rows} held-out pictures in {found.features}; all draw from the same noise."
    return Page(title, [Story(title, lines[0], about, list(_sections(found, out)))], ROWS).write(out / "compare.html")


def figures(found: Finished) -> dict[str, object]:
    """All readings as JSON has them, who to a list."""
    return {
        "features": found.features, "rows": found.rows, "recipes": dict(found.recipes),
        "readings": {who: [asdict(r) for r in readings] for who, readings in found.readings.items()},
    }  # fmt: skip


def said(found: Finished) -> list[str]:
    """What can be read off: each student at the fewest evaluations that it was made for, beside its teacher."""
    teacher = found.readings.get(TEACHER, ())
    out = []
    for who, readings in found.readings.items():
        if who != TEACHER:
            first = next((r for r in readings if r.made), readings[0])
            text = f"{who} has a Frechet distance of {number(first.fid)} at {_evaluations(first.evaluations)}"
            out.append(f"{text}{_beside(first, teacher)}.")
    return out or [f"The teacher has a Frechet distance of {number(teacher[-1].fid)}."]


def _beside(one: Reading, teacher: Sequence[Reading]) -> str:
    """Where the teacher stands at as many evaluations, and from how many on it is as near."""
    same = next((r for r in teacher if r.evaluations == one.evaluations), None)
    near = next((r.evaluations for r in teacher if r.fid <= one.fid), None)
    if not teacher:
        return ""
    there = "" if same is None else f"where its teacher has {number(same.fid)}"
    then = "the teacher never comes as near" if near is None else f"the teacher comes as near at {near}"
    return ", " + "; ".join(filter(None, (there, then if near != one.evaluations else "")))


def _evaluations(n: int) -> str:
    return f"{n} evaluation{'s' if n > 1 else ''}"


def _sections(found: Finished, out: Path) -> Iterator[Section]:
    yield Section("In short", [Bullets([("", text) for text in said(found)])])
    note = f"{READ} A line at a mark is its 95% interval; what is not above 0 lies on the lower edge."
    yield Section("Quality against evaluations", [Para(note), Figures(_curves(found), file="compare.svg")])
    yield Section("Pictures", [Para("For the same rows, from the same noise."), Figures(list(_pictures(found, out)))])
    yield Section("Figures", [_table(found)])
    yield Section("What is not known", [Bullets([("open", text) for text in _doubts(found)])])
    yield Section("To reproduce it", [Code(_command(found), "sh")])


def _curves(found: Finished) -> list[Plot]:
    """Both distances against evaluations."""
    of = found.readings.items()
    made = {who: {r.evaluations for r in rs if r.made} for who, rs in of}
    fid = {who: {r.evaluations: Interval(r.fid) for r in rs} for who, rs in of}
    kid = {who: {r.evaluations: r.kid for r in rs} for who, rs in of}
    return [_curve("Frechet distance", fid, made), _curve("kernel distance", kid, made)]


def _curve(name: str, series: Mapping[str, Mapping[int, Interval]], made: Mapping[str, set[int]]) -> Plot:
    told = "; ".join(f"{w} {', '.join(f'{number(v.value)} at {n}' for n, v in c.items())}" for w, c in series.items())
    says = f"{name} by evaluations a picture: {told}"
    title = f"{name} against evaluations"
    return Plot(title, plots.lines(title, says, series, "evaluations a picture", made), says)


def _pictures(found: Finished, out: Path) -> Iterator[Plot]:
    """What each draws at the numbers of evaluations that it was made for; of the teacher, the most and the fewest."""
    for who, readings in found.readings.items():
        shown = [readings[-1], readings[0]] if who == TEACHER else [r for r in readings if r.made]
        for r in shown:
            title, says = f"{who} at {_evaluations(r.evaluations)}", f"Frechet distance {number(r.fid)}"
            yield Plot(title, plots.picture(title, says, (out / r.grid).read_bytes()), says)


def _table(found: Finished) -> Table:
    rows = [
        [f"{who}{f' ({found.recipes[who]})' if who in found.recipes else ''}", str(r.evaluations),
         "yes" if r.made else "no", number(r.fid), interval(r.kid), seconds(r.seconds)]
        for who, readings in found.readings.items() for r in readings
    ]  # fmt: skip
    head = ["Model", "evaluations", "made for them", "Frechet distance", "kernel distance (95%)", "time of a picture"]
    return Table(f"Distances to {found.rows} held-out pictures, in {found.features}", head, rows, frozenset({0, 2}))


def _doubts(found: Finished) -> list[str]:
    return [
        f"Distances are measured in {found.features}: they are comparable with each other, not with the FID of papers.",
        "One run of each: how much another seed would change is not in the intervals.",
        f"{found.rows} pictures: a Frechet distance is above 0 for a perfect model too, by about features to pictures.",
        "Recipes learned for as long as their runs say, which need not be equally long.",
    ]


def _command(found: Finished) -> str:
    return shlex.join(["limbeck", "compare", *found.runs, *(["--eval", found.eval] if found.eval else [])])
