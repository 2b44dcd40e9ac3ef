"""A run that is killed ends as the uninterrupted one does, to the bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.errors import BadCheckpoint, RunConflict, RunError
from limbeck.loop import Loop, Options
from limbeck.part import part, terms
from limbeck.players import Players
from limbeck.recipe import Learn, Make, Measure, Phase, Recipe, Repeat, Solve
from limbeck.roles import copy_of, ema_of, frozen, learning
from limbeck.run import Journal, Run, write_atomically
from tests.conftest import Net
from tests.test_loop import count, distance, mse, noisy

KILL = {"at": -1, "seen": 0, "interrupt": -1}


def tick() -> None:
    """Die here if it is the moment."""
    KILL["seen"] += 1
    if KILL["seen"] == KILL["at"]:
        os.kill(os.getpid(), signal.SIGKILL)


class Dropping(Net):
    """A net with dropout, so that PyTorch's own generator matters."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.body.append(nn.Dropout(0.2))


@part
def adam(params: list[Tensor], *, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=lr)


@part
def mortal(players: Players, batch: Batch, *, k: float = 1.0) -> Tensor:
    tick()
    if KILL["seen"] == KILL["interrupt"]:
        os.kill(os.getpid(), signal.SIGINT)
    return mse.fn(players, batch)


@part
def labelled(players: Players, batch: Batch, *, k: float = 1.0) -> Batch:
    tick()
    return Batch({"x": batch.x + batch.rng.normal("e", 2), "text": [str(i) for i in batch.index.tolist()]})


def everything() -> Recipe:
    phases = (Phase("student", ("student",), terms(kd=mortal(), again=0.5 * mse()), batch=noisy(), times=2),)
    rounds = Repeat(
        "rounds",
        (
            Make("make", labelled(), into="made", chunk=8),
            Learn("fit", phases, steps=4, batch_size=6, data="made", fresh=("student",), clip=1.0),
            Solve("count", count(), steps=2),
            Measure("gap", {"distance": distance()}),
        ),
        times=2,
        carry={"teacher": "student"},
    )
    facts = dict(title="t", paper="p", family="f", kind="method", learns="s", teacher="white-box")
    roles = {
        "student": learning(adam()),
        "teacher": frozen(),
        "ema": ema_of("student", decay=0.9),
        "twin": copy_of("student"),
    }
    return Recipe(key="toy", players=roles, stages=(rounds,), **facts)


def execute(folder: Path, **options: Any) -> Loop:
    data = {"train": Table({"x": torch.randn(20, 2, generator=torch.Generator().manual_seed(0))})}
    with Run(folder, {"key": "toy"}, resume=True) as run:
        loop = Loop(
            everything(),
            {"student": Dropping(0), "teacher": Net(seed=1)},
            data,
            Options(checkpoint_seconds=0, **options),
            run,
        )
        loop.execute()
    return loop


def result(folder: Path, loop: Loop) -> tuple[list[Any], list[Tensor]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tensors = [t.clone() for p in loop.players.values() for t in p.module.state_dict().values()]
    return [{k: v for k, v in row.items() if k != "time"} for row in rows], tensors


def in_child(work: Any) -> int:
    """Run in a forked process; returns the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("kills", [(1,), (3, 2), (5, 5), (9, 1, 3), (14,), (20, 2)])
def test_killed_anywhere_ends_the_same(tmp_path: Path, kills: tuple[int, ...]) -> None:
    whole = result(tmp_path / "whole", execute(tmp_path / "whole"))
    for moment in kills:
        KILL.update(at=moment, seen=0)
        assert in_child(lambda: execute(tmp_path / "cut")) == -signal.SIGKILL
    KILL.update(at=-1)
    cut = result(tmp_path / "cut", execute(tmp_path / "cut"))
    assert cut[0] == whole[0]
    assert all(torch.equal(a, b) for a, b in zip(cut[1], whole[1], strict=True))


def test_make_asks_for_no_finished_chunk_again(tmp_path: Path) -> None:
    KILL.update(at=3, seen=0)  # the third chunk of the first round
    in_child(lambda: execute(tmp_path))
    made = sorted(p.name for p in (tmp_path / "journal" / "rounds.1.make").iterdir())
    assert made == ["000000.safetensors", "000001.safetensors"]
    times = [(tmp_path / "journal" / "rounds.1.make" / n).stat().st_mtime_ns for n in made]
    KILL.update(at=-1)
    execute(tmp_path)
    assert times == [(tmp_path / "journal" / "rounds.1.make" / n).stat().st_mtime_ns for n in made]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = result(tmp_path / "whole", execute(tmp_path / "whole"))
    KILL.update(at=12, seen=0)
    in_child(lambda: execute(tmp_path / "cut"))
    KILL.update(at=-1)
    newest = max((tmp_path / "cut" / "checkpoints").iterdir())
    with (newest / "state.safetensors").open("r+b") as file:
        file.truncate(100)
    with pytest.warns(UserWarning, match="falling back to the checkpoint before it"):
        cut = result(tmp_path / "cut", execute(tmp_path / "cut"))
    assert cut[0] == whole[0] and all(torch.equal(a, b) for a, b in zip(cut[1], whole[1], strict=True))


def test_when_every_checkpoint_is_damaged_it_says_so(tmp_path: Path) -> None:
    execute(tmp_path)
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        (checkpoint / "state.json").write_text("{}")
    with pytest.warns(UserWarning), pytest.raises(BadCheckpoint, match="start the run again"):
        execute(tmp_path)


def test_ctrl_c_leaves_a_run_that_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = result(tmp_path / "whole", execute(tmp_path / "whole"))
    KILL.update(interrupt=9, seen=0)  # three chunks, then the last update of the third step
    with pytest.raises(KeyboardInterrupt, match=r"stopped in stage rounds.1.fit after step 3"):
        execute(tmp_path / "cut")
    KILL.update(interrupt=-1)
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["status"] == "interrupted"
    cut = result(tmp_path / "cut", execute(tmp_path / "cut"))
    assert cut[0] == whole[0] and all(torch.equal(a, b) for a, b in zip(cut[1], whole[1], strict=True))


def test_a_run_out_of_time_stops_and_resumes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path, max_seconds=1e-9)
    assert result(tmp_path, execute(tmp_path))[0]


def test_two_runs_in_one_directory_are_refused(tmp_path: Path) -> None:
    with Run(tmp_path, {"key": "toy"}), pytest.raises(RunConflict, match=f"in use by process {os.getpid()}"):
        Run(tmp_path, {"key": "toy"}, resume=True).__enter__()


def test_a_directory_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    with Run(tmp_path, {"key": "toy", "recipe": {"steps": 3}}):
        pass
    with pytest.raises(RunConflict, match="continue it with --resume"):
        Run(tmp_path, {"key": "toy", "recipe": {"steps": 3}}).__enter__()
    with pytest.raises(RunConflict, match=r"its recipe differs \(steps=3 there, steps=4 here\)"):
        Run(tmp_path, {"key": "toy", "recipe": {"steps": 4}}, resume=True).__enter__()


def test_a_file_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left on device.*--resume"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_truncated_chunk_is_made_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(0, {"x": torch.ones(2), "text": ["a", "b"]})
    assert journal.read(0)["text"] == ["a", "b"]
    with (tmp_path / "000000.safetensors").open("r+b") as file:
        file.truncate(12)
    assert journal.read(0) is None
