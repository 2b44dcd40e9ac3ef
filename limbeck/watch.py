"""Watching a run: when pictures collapse, shift or burst, say so once, and what to do.

A student that begins as its teacher is far off at first, in few steps. So nothing is said before two evaluations in a
row found the same fault, and only if it is not a tenth smaller than at the first evaluation of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from limbeck.probes.field_game import faults
from limbeck.progress import Progress

__all__ = ["Watching"]

EVAL = "eval/"
MENDED = 0.9  # of what a fault was at first: below it, learning mends it


class Watching(Progress):
    """Shows what another shows, and reads the evaluations that go by.

    Args:
        shown: what shows them.
        rows: that an evaluation measures.

    Example:
        >>> watch = Watching(Progress(), rows=400)
        >>> for variance in (-2.0, -2.1):
        ...     watch.show({"eval/spread drift": variance})
        >>> watch.said[0].split(";")[0]
        'the samples have 12% of the variance of the data: modes are being lost'
    """

    def __init__(self, shown: Progress, rows: int) -> None:
        self.shown, self.rows = shown, rows
        self.first: dict[str, float] | None = None
        self.last: dict[str, float] = {}
        self.told: set[str] = set()
        self.said: list[str] = []

    def __enter__(self) -> Watching:
        self.shown.__enter__()
        return self

    def __exit__(self, *why: object) -> None:
        """The other ends too."""
        self.shown.__exit__(*why)

    def track(self, stage: str, work: Sequence[Any] | range, start: int = 0) -> Iterable[Any]:
        """Go through the steps of a stage, as the other does."""
        return self.shown.track(stage, work, start)

    def show(self, figures: Mapping[str, float]) -> None:
        """Show the newest figures, and judge them where they are those of an evaluation."""
        self.shown.show(figures)
        seen = {k.removeprefix(EVAL): v for k, v in figures.items() if k.startswith(EVAL)}
        if seen:
            self._judge(faults(seen, self.rows))

    def _judge(self, found: Mapping[str, tuple[float, str]]) -> None:
        sizes = {name: size for name, (size, _) in found.items()}
        self.first = sizes if self.first is None else self.first
        for name, (size, line) in found.items():
            if name in self.last and name not in self.told and size >= MENDED * self.first.get(name, 0.0):
                self.told.add(name)
                self.said.append(line)
                self.note(f"warning: {line}")
        self.last = sizes

    def note(self, text: str) -> None:
        """Say something that the user should know."""
        self.shown.note(text)
