"""Trackers: they are given what the run wrote, are closed however it ends, and mistakes are found first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from typer.testing import CliRunner

import limbeck.api
import limbeck.trackers
from limbeck import distill
from limbeck.commands import app
from limbeck.errors import BrokenRecipe, RunConflict
from limbeck.trackers import TRACKERS, track

SMALL: dict[str, Any] = {"data": "digits_few", "steps": 4, "batch_size": 8}


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the trackers that were closed."""
    closed: list[str] = []
    end = Accelerator.end_training

    def record(self: Accelerator) -> None:
        closed.extend(tracker.name for tracker in self.trackers)
        end(self)

    monkeypatch.setattr(Accelerator, "end_training", record)
    return closed


@pytest.fixture
def tensorboard() -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; it belongs to the extra dev")


def events(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Every figure in the event files: name, step, value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    held = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    held.Reload()
    for name in held.Tags()["scalars"]:
        yield from ((name, event.step, event.value) for event in held.Scalars(name))


def written(run: Path) -> Iterator[tuple[str, int, float]]:
    """Every figure in metrics.jsonl: name, step, value."""
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        stage, step = row.pop("stage"), row.pop("step")
        del row["time"]
        yield from ((f"{stage}/{name}", step, value) for name, value in row.items())


def same(run: Path) -> bool:
    # event files hold float32
    found, expected = sorted(events(run / "limbeck")), sorted(written(run))
    assert [f[:2] for f in found] == [e[:2] for e in expected]
    return [f[2] for f in found] == pytest.approx([e[2] for e in expected], rel=1e-6)


@pytest.mark.usefixtures("tensorboard")
def test_event_files_hold_what_metrics_hold(tmp_path: Path, ended: list[str]) -> None:
    run = distill("vkd", out=tmp_path / "run", trackers=("tensorboard",), eval_every=2, **SMALL)
    names = {name for name, _, _ in events(run / "limbeck")}
    assert "distill/eval/accuracy" in names and len(list(written(run))) > 12 and same(run)
    assert ended == ["tensorboard"]


@pytest.mark.usefixtures("tensorboard")
def test_a_run_that_fails_closes_its_trackers(
    tmp_path: Path, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BrokenRecipe("after learning")

    monkeypatch.setattr(limbeck.api, "_finish", fail)
    with pytest.raises(BrokenRecipe, match="after learning"):
        distill("vkd", out=tmp_path / "run", trackers=("tensorboard",), **SMALL)
    assert ended == ["tensorboard"] and same(tmp_path / "run")


@pytest.mark.usefixtures("tensorboard")
def test_nothing_is_logged_into_a_run_that_is_refused_nor_by_a_dry_run(tmp_path: Path, ended: list[str]) -> None:
    distill("vkd", out=tmp_path / "dry", trackers=("tensorboard",), dry_run=True, **SMALL)
    assert list(tmp_path.iterdir()) == [] and ended == []
    run = distill("vkd", out=tmp_path / "run", trackers=("tensorboard",), **SMALL)
    before = sorted((run / "limbeck").iterdir())
    with pytest.raises(RunConflict, match="already holds a run"):
        distill("vkd", out=run, trackers=("tensorboard",), seed=1, **SMALL)
    assert sorted((run / "limbeck").iterdir()) == before


def test_a_tracker_that_wants_steps_to_grow_gets_the_step_as_a_figure() -> None:
    logged: list[tuple[str, dict[str, float], object]] = []

    def tracker(name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, log=lambda values, step=None: logged.append((name, values, step)))

    accelerator: Any = SimpleNamespace(trackers=[tracker("wandb"), tracker("trackio")])
    track(accelerator, "warm", 7, {"loss": 0.5})
    track(accelerator, "distill", 0, {"loss": 0.25})
    assert logged == [
        ("wandb", {"warm/loss": 0.5, "warm/step": 7}, None),
        ("trackio", {"warm/loss": 0.5}, 7),
        ("wandb", {"distill/loss": 0.25, "distill/step": 0}, None),
        ("trackio", {"distill/loss": 0.25}, 0),
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tensorbord", "unknown tracker 'tensorbord'; did you mean 'tensorboard'?"),
        ("all", "unknown tracker 'all'"),
        *((name, f"the tracker {name!r} needs the package {name}: pip install limbeck[trackers]") for name in TRACKERS),
    ],
)
def test_a_tracker_that_cannot_log_is_one_line_and_exit_2(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limbeck.trackers, "get_available_trackers", list)
    # neither the rows nor the teacher are there: it is found out before anything is opened
    args = ["--teacher", "nowhere", "--data", "nowhere.jsonl", "--out", str(tmp_path / "run"), "--tracker", name]
    done = CliRunner().invoke(app, ["distill", "vkd", *args])
    assert done.exit_code == 2 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr.startswith("limbeck: ") and said in done.stderr and done.stderr.count("\n") == 1
