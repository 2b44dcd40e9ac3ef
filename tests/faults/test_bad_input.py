"""Bad input: the message, the exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import limbeck.assets
from limbeck.beds import arith
from limbeck.commands import app

ASSETS = Path(str(limbeck.assets.__file__)).parent
TEACHER, STUDENT = ASSETS / "arith-teacher", ASSETS / "arith-warm-student"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    problems = arith.problems(60, "train", 0)
    lines = [{"prompt": arith.question(p), "completion": arith.solution(p)} for p in problems]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def limbeck_(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, str]:
    """Run a command line in this process: its exit code and what it said on stderr."""
    with pytest.raises(SystemExit) as ended:
        app([str(a) for a in args], prog_name="limbeck")
    return int(ended.value.code or 0), capsys.readouterr().err


def distill(capsys: Any, tmp_path: Path, *more: Any, recipe: str = "kd", **changes: Any) -> tuple[int, str]:
    given = {"teacher": TEACHER, "student": STUDENT, "data": tmp_path / "rows.jsonl", "out": tmp_path / "run"}
    given["steps"] = 2
    given |= changes
    flags = [x for name, value in given.items() if value is not None for x in (f"--{name}", value)]
    return limbeck_(capsys, "distill", recipe, *flags, *more)


def test_what_is_right_works(capsys: Any, tmp_path: Path, rows: Path) -> None:
    code, err = distill(capsys, tmp_path)
    assert code == 0, err
    assert (tmp_path / "run" / "report.html").exists() and (tmp_path / "run" / "student" / "README.md").exists()


def test_an_unknown_recipe(capsys: Any, tmp_path: Path, rows: Path) -> None:
    code, err = distill(capsys, tmp_path, recipe="gdk")
    assert code == 2 and "unknown recipe 'gdk'; did you mean 'gkd'?" in err


def test_an_unknown_setting(capsys: Any, tmp_path: Path, rows: Path) -> None:
    code, err = distill(capsys, tmp_path, "--set", "distill.student.loss.betta=0.5", recipe="gkd")
    assert code == 2 and "did you mean" in err and "beta" in err
    assert not (tmp_path / "run").exists()


def test_an_unknown_player(capsys: Any, tmp_path: Path, rows: Path) -> None:
    code, err = distill(capsys, tmp_path, "--player", f"studnet={STUDENT}")
    assert code == 2 and "unknown player 'studnet'" in err and "did you mean 'student'" in err


def copied(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    return to


def test_missing_weights(capsys: Any, tmp_path: Path, rows: Path) -> None:
    folder = copied(TEACHER, tmp_path / "teacher")
    (folder / "model.safetensors").unlink()
    code, err = distill(capsys, tmp_path, teacher=folder)
    assert code == 2 and str(folder) in err and "safetensors" in err


def test_truncated_weights(capsys: Any, tmp_path: Path, rows: Path) -> None:
    folder = copied(TEACHER, tmp_path / "teacher")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    code, err = distill(capsys, tmp_path, teacher=folder)
    assert code == 2 and "model.safetensors" in err


def test_pickled_weights_are_refused_unread(capsys: Any, tmp_path: Path, rows: Path) -> None:
    folder = copied(TEACHER, tmp_path / "teacher")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/limbeck-was-here'\ntR.")
    code, err = distill(capsys, tmp_path, teacher=folder)
    assert code == 2 and "pytorch_model.bin" in err and "safetensors" in err
    assert not Path("/tmp/limbeck-was-here").exists()


def test_weights_that_are_not_finite(capsys: Any, tmp_path: Path, rows: Path) -> None:
    folder = copied(TEACHER, tmp_path / "teacher")
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code, err = distill(capsys, tmp_path, teacher=folder)
    assert code == 2 and str(folder) in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "rows.jsonl"),
        ('{"prompt": "1+1=", "completion": "2"}\n{"prompt": "1+', "rows.jsonl"),
        ('{"promt": "1+1="}\n{"promt": "1+2="}\n', "promt"),
        (
            '{"prompt": "1=", "completion": "1", "score": NaN}\n{"prompt": "2=", "completion": "2", "score": 1}\n',
            "score",
        ),
    ],
    ids=["empty", "truncated", "columns", "nan"],
)
def test_bad_data(capsys: Any, tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    code, err = distill(capsys, tmp_path)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_no_data_of_that_name(capsys: Any, tmp_path: Path, rows: Path) -> None:
    code, err = distill(capsys, tmp_path, data=tmp_path / "row.jsonl")
    assert code == 2 and "row.jsonl" in err


def test_another_vocabulary(capsys: Any, tmp_path: Path, rows: Path) -> None:
    folder = copied(STUDENT, tmp_path / "student")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    a, b = [token for token in vocabulary if token in ("3", "4")]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, err = distill(capsys, tmp_path, student=folder)
    assert code == 2 and "the tokenizers differ" in err


def test_a_prompt_longer_than_the_context(capsys: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "1+" * 4000 + "1=", "completion": "2"}, {"prompt": "1+1=", "completion": "2"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    code, err = distill(capsys, tmp_path)
    assert code == 2 and "row 1" in err and "context" in err


def test_an_output_that_cannot_be_written(capsys: Any, tmp_path: Path, rows: Path) -> None:
    (tmp_path / "file").write_text("")
    code, err = distill(capsys, tmp_path, out=tmp_path / "file" / "run")
    assert code in (1, 2) and "cannot write" in err


def test_the_directory_of_another_run(capsys: Any, tmp_path: Path, rows: Path) -> None:
    assert distill(capsys, tmp_path)[0] == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    code, err = distill(capsys, tmp_path)
    assert code == 2 and "already holds a run of kd" in err and "--resume" in err
    code, err = distill(capsys, tmp_path, "--resume", recipe="sft", teacher=None)
    assert code == 2 and "holds another run" in err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_later_commands_say_so(capsys: Any) -> None:
    for name in ("plan", "recommend", "export"):
        code, err = limbeck_(capsys, name)
        assert code == 2 and "not available in this version" in err


def test_ctrl_c_ends_with_130_and_resumes(tmp_path: Path, rows: Path) -> None:
    command = [
        sys.executable, "-m", "limbeck", "distill", "kd", "--teacher", TEACHER, "--student", STUDENT, "--data", rows,
        "--out", tmp_path / "run", "--steps", "100000",
    ]  # fmt: skip
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        assert started.poll() is None, started.stderr.read() if started.stderr else ""
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130 and "--resume" in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    assert list((tmp_path / "run" / "checkpoints").iterdir())
