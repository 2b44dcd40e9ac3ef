"""What `limbeck data check` and `limbeck doctor` tell, against the files and the machine themselves."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from limbeck import doctor
from limbeck.adapters.data import hold_out
from limbeck.beds import load_bed
from limbeck.errors import BadData
from limbeck.inspect_data import inspect_data


def jsonl(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_are_counted_as_a_run_would_split_them(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"what is {i} ?", "label": i} for i in range(40)]
    told = inspect_data(jsonl(tmp_path / "rows.jsonl", [*rows, *rows[:5]]))
    assert told["rows"] == 45 and told["repeated"] == 5
    assert told["train"] + told["held_out"] == 40 and 1 <= told["held_out"] <= 12
    assert told["columns"] == {"prompt": "str", "label": "int64 ()"}


def test_the_rows_shown_are_training_rows_of_the_file(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"question {i}"} for i in range(30)]
    told = inspect_data(jsonl(tmp_path / "rows.jsonl", rows), rows=5)
    assert len(told["first"]) == 5 and all(row in rows for row in told["first"])


def test_long_texts_are_cut_and_say_how_long_they_are(tmp_path: Path) -> None:
    told = inspect_data(jsonl(tmp_path / "rows.jsonl", [{"text": c * 1000} for c in "ab"]), rows=1)
    (shown,) = told["first"]
    letter = shown["text"][0]
    assert shown["text"] == letter * 400 + "... (1000 characters)"


def test_arrays_are_told_by_kind_and_range(tmp_path: Path) -> None:
    x = np.arange(60, dtype=np.float32).reshape(3, 20)
    np.savez(tmp_path / "rows.npz", x=x, y=np.array([[1, 2], [3, 4], [5, 6]]))
    told = inspect_data(str(tmp_path / "rows.npz"), rows=2)
    assert told["columns"] == {"x": "float32 (20,)", "y": "int64 (2,)"}
    assert len(told["first"]) == 2
    for row in told["first"]:
        # row i of x holds 20 i .. 20 i + 19, and of y 2 i + 1, 2 i + 2
        i = (row["y"][0] - 1) // 2
        assert row["y"] == [2 * i + 1, 2 * i + 2]
        assert row["x"] == f"float32 (20,) in [{20 * i}, {20 * i + 19}]"


def test_a_bed_is_described_by_its_training_rows() -> None:
    train = load_bed("digits_few").data(0)["train"]
    told = inspect_data("digits_few", rows=1)
    assert told["rows"] == len(train) == 100 and told["fingerprint"] == train.fingerprint
    assert told["held_out"] == len(hold_out(train).held)
    assert told["columns"]["y"] == "int64 ()"


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    one = inspect_data(jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}]))["fingerprint"]
    copy = inspect_data(jsonl(tmp_path / "b.jsonl", [{"text": "a"}, {"text": "b"}]))["fingerprint"]
    other = inspect_data(jsonl(tmp_path / "c.jsonl", [{"text": "a"}, {"text": "c"}]))["fingerprint"]
    assert one == copy != other


def test_one_row_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="a split needs two different rows, got 1"):
        inspect_data(jsonl(tmp_path / "rows.jsonl", [{"text": "a"}] * 3))


# -- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_tells_what_this_machine_is() -> None:
    told = doctor.examine()
    assert told["python"] == platform.python_version() and told["cpus"] == os.cpu_count()
    assert told["memory_gib"] == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.06)
    assert told["versions"]["torch"] == metadata.version("torch")
    assert told["torch"]["cuda"] is torch.cuda.is_available()
    assert told["torch"]["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(told)) == told


def test_extras_are_not_needed_and_those_of_developers_not_told() -> None:
    told = doctor.examine()
    assert {"trackers", "sentence", "quantised"} == set(told["extras"])
    assert "wandb" in told["extras"]["trackers"] and not {"pytest", "wandb"} & set(told["versions"])


def test_a_package_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ["torch>=2", "no-such-package>=1", 'nor-this ; extra == "trackers"', 'pytest ; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda name: told)
    found = doctor.examine()
    assert "package no-such-package" in found["missing"]
    assert found["versions"]["no-such-package"] is None and found["extras"] == {"trackers": {"nor-this": None}}


def test_a_cache_that_cannot_be_written_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "yet"))
    found = doctor.examine()
    assert found["cache_writable"] and found["cache"] == str(tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()
    monkeypatch.setenv("HF_HOME", "/proc/limbeck")  # nobody, not even root, can make files there
    found = doctor.examine()
    assert not found["cache_writable"]
    assert "a cache that can be written: /proc/limbeck (set HF_HOME)" in found["missing"]


def test_a_torch_that_does_not_import_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    found = doctor.examine()
    assert found["torch"] == {} and any(m.startswith("a torch that can be imported: ") for m in found["missing"])
