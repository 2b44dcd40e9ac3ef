"""A run directory as the report reads it: whatever is there, and a warning for whatever is not."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import BadData
from limbeck.evaluate import FILE, Examination
from limbeck.part import Expr, Part
from limbeck.recipe import Recipe

__all__ = ["Record", "formulas", "read_run"]

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Record:
    """What a run directory says.

    Args:
        path: the directory.
        run: the contents of run.json.
        curves: (stage, name of a figure) to its (step, value) in order.
        exam: the evaluation, if there is one.
        warnings: what is missing or damaged.
    """

    path: Path
    run: Mapping[str, Any]
    curves: Mapping[tuple[str, str], Curve] = field(default_factory=dict)
    exam: Examination | None = None
    warnings: tuple[str, ...] = ()

    @property
    def recipe(self) -> str:
        """The key of the recipe."""
        return str(self.run.get("recipe") or self.run.get("key") or "unknown recipe")

    @property
    def status(self) -> str:
        """How the run ended: "done", "interrupted", "failed", "running"."""
        return str(self.run.get("status") or "of unknown status")


def read_run(path: Path) -> Record:
    """Read a run directory, complete or not.

    Args:
        path: the directory.

    Raises:
        BadData: there is no run.json, or it cannot be read.
    """
    path = Path(path)
    try:
        run = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(f"{path} is not a run directory: its run.json cannot be read ({error})") from error
    if not isinstance(run, dict):
        raise BadData(f"{path / 'run.json'} must hold an object, got {type(run).__name__}")
    curves, warnings = _curves(path / "metrics.jsonl")
    exam = None
    if (path / FILE).exists():
        try:
            exam = Examination.load(path)
        except BadData as error:
            warnings.append(f"The evaluation is damaged and was left out: {error}")
    return Record(path, run, curves, exam, tuple(warnings))


def _rows(path: Path, bad: list[int]) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield row
            else:
                bad.append(number)


def _curves(path: Path) -> tuple[dict[tuple[str, str], Curve], list[str]]:
    """Read the curves of metrics.jsonl; lines that a crash cut off and figures that are not finite are told."""
    if not path.exists():
        return {}, ["There is no metrics.jsonl: how the student learned is not known."]
    curves: dict[tuple[str, str], Curve] = defaultdict(list)
    bad: list[int] = []
    wild: dict[str, int] = {}
    for row in _rows(path, bad):
        stage, step = str(row.pop("stage", "")), int(row.pop("step", 0))
        row.pop("time", None)
        for name, value in row.items():
            if not isinstance(value, (int, float)):
                continue
            if math.isfinite(value):
                curves[stage, name].append((step, float(value)))
            else:
                wild.setdefault(f"{stage}: {name}", step)
    warnings = [f"{name} was NaN or infinite, first at step {step}." for name, step in wild.items()]
    if bad:
        warnings.append(f"{len(bad)} lines of metrics.jsonl are damaged (first: line {bad[0]}) and were left out.")
    return dict(curves), warnings


def formulas(recipe: Recipe) -> dict[str, str]:
    """The parts of a recipe, bound as they are, with the maths that their docstrings give.

    Args:
        recipe: the recipe as it was run; its result goes to run.json under "parts".

    Returns:
        The part as written, `kl(temperature=2.0)`, to its formula, which may be empty.
    """
    found: dict[str, str] = {}
    for part in _parts([recipe.players, recipe.stages]):
        found.setdefault(repr(part), part.spec.maths)
    return found


def _parts(thing: Any) -> Iterator[Part]:
    """Every part below frozen data, in order."""
    if isinstance(thing, Expr):
        if isinstance(thing, Part):
            yield thing
        yield from (p for p in thing.leaves() if p is not thing)
    elif isinstance(thing, Mapping):
        yield from _parts(list(thing.values()))
    elif isinstance(thing, (list, tuple)):
        for item in thing:
            yield from _parts(item)
    elif is_dataclass(thing):
        yield from _parts([getattr(thing, f.name) for f in fields(thing)])
