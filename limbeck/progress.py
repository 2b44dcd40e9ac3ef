"""What a person sees while a run works: a bar with rate, time left, losses and memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

__all__ = ["LiveProgress", "Muted", "Progress"]


class Progress:
    """Shows nothing; what the loop calls."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was shown, nothing is cleared."""

    def track(self, stage: str, work: Sequence[Any] | range, start: int = 0) -> Iterable[Any]:
        """Go through the steps of a stage.

        Args:
            stage: its path.
            work: what is left of it.
            start: steps that were done before.
        """
        return work

    def show(self, figures: Mapping[str, float]) -> None:
        """Show the newest figures of the stage."""

    def note(self, text: str) -> None:
        """Say something that the user should know."""
        print(text, file=sys.stderr)


class Muted(Progress):
    """Shows and says nothing: all processes but the first."""

    def note(self, text: str) -> None:
        """The first process says it."""


class LiveProgress(Progress):
    """A bar a stage on a terminal; a line every ten seconds elsewhere.

    Args:
        console: where to; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
            console=self.console, transient=False, disable=not self.console.is_terminal,
        )  # fmt: skip
        self.figures: dict[str, float] = {}
        self.spoken = time.monotonic()

    def __enter__(self) -> LiveProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def track(self, stage: str, work: Sequence[Any] | range, start: int = 0) -> Iterator[Any]:
        """Go through the steps of a stage, with a bar."""
        total = start + len(work)
        task = self.bar.add_task(stage, total=total, completed=start, rate="", figures="")
        began = time.monotonic()
        for n, item in enumerate(work):
            yield item
            rate = (n + 1) / max(1e-9, time.monotonic() - began)
            self.bar.update(task, advance=1, rate=f"{rate:.3g}/s", figures=self._line())
            self._speak(stage, start + n + 1, total, rate)

    def _speak(self, stage: str, step: int, total: int, rate: float) -> None:
        if not self.console.is_terminal and (time.monotonic() - self.spoken > 10 or step == total):
            self.spoken = time.monotonic()
            left = (total - step) / rate
            text = f"{stage} {step}/{total}  {rate:.3g}/s  {left:.0f} s left  {self._line()}"
            self.console.print(text, highlight=False)

    def _line(self) -> str:
        losses = [f"{k} {v:.4g}" for k, v in self.figures.items() if "grad_norm" not in k]
        return "  ".join([*losses[:4], memory()])

    def show(self, figures: Mapping[str, float]) -> None:
        """Show the newest figures of the stage."""
        self.figures = {**self.figures, **figures} if figures.keys() & self.figures.keys() else dict(figures)

    def note(self, text: str) -> None:
        """Say something above the bars."""
        self.console.print(text, highlight=False)


def memory() -> str:
    """The memory in use: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB GPU"
    return f"{psutil.Process().memory_info().rss / 2**30:.2f} GiB"
