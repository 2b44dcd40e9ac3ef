"""What is shown while a run works, read from the text that reaches the console."""

from __future__ import annotations

import io
import re
import time

import psutil
import pytest
import torch
from rich.console import Console

from limbeck.progress import LiveProgress, Progress, memory


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=200, color_system=None), text


def test_the_silent_one_passes_work_on_and_says_notes(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        assert list(progress.track("distill", range(3))) == [0, 1, 2]
        progress.show({"loss": 1.0})
        progress.note("look here")
    said = capsys.readouterr()
    assert said.out == "" and said.err == "look here\n"


def test_without_a_terminal_the_last_step_is_one_line() -> None:
    where, text = console(False)
    with LiveProgress(where) as progress:
        for step in progress.track("distill", range(4, 8), start=4):
            progress.show({"student/loss": 2.0 / (step + 1), "student/grad_norm": 9.0})
    lines = text.getvalue().splitlines()
    assert len(lines) == 1
    assert re.match(r"distill 8/8  \S+/s  0 s left  student/loss 0.25  \d+\.\d\d GiB$", lines[0])
    assert "grad_norm" not in text.getvalue()


def test_without_a_terminal_a_line_comes_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 100.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    where, text = console(False)
    progress = LiveProgress(where)
    for _ in progress.track("distill", range(12)):
        clock["now"] += 4.0
    # a step takes 4 s: it speaks once more than 10 s have passed, every third step, and the last step is a third one
    said = [re.match(r"distill (\d+)/12  0.25/s  (\d+) s left", line) for line in text.getvalue().splitlines()]
    assert [(int(m[1]), int(m[2])) for m in said if m] == [(3, 36), (6, 24), (9, 12), (12, 0)]


def test_a_terminal_sees_a_bar_with_count_and_figures() -> None:
    where, text = console(True)
    with LiveProgress(where) as progress:
        for _ in progress.track("warm", range(5)):
            progress.show({"student/loss": 0.125})
        progress.note("a word above the bars")
    shown = text.getvalue()
    assert "warm" in shown and "5/5" in shown and "student/loss 0.125" in shown and "a word above the bars" in shown


def test_figures_of_two_phases_stand_together_and_those_of_a_new_stage_alone() -> None:
    progress = LiveProgress(console(False)[0])
    progress.show({"student/loss": 1.0, "critic/loss": 2.0})
    progress.show({"student/loss": 0.5})
    assert progress.figures == {"student/loss": 0.5, "critic/loss": 2.0}
    progress.show({"accuracy": 0.9})
    assert progress.figures == {"accuracy": 0.9}


def test_memory_is_that_of_the_process() -> None:
    if torch.cuda.is_available():
        pytest.skip("with a GPU its memory is shown")
    ballast = torch.ones(2**26)  # 256 MiB
    shown = float(memory().removesuffix(" GiB"))
    # what the operating system says at nearly the same moment
    assert shown == pytest.approx(psutil.Process().memory_info().rss / 2**30, abs=0.05) and shown > 0.25
    assert len(ballast) == 2**26
