"""Run directories and checkpoints: read back from plain files, and refused where they are not what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from limbeck.checkpoint import load_latest, pack, save_checkpoint, unpack
from limbeck.errors import BadCheckpoint, BadData, RunConflict, RunError
from limbeck.run import Journal, Run, pack_columns, unpack_columns, write_atomically

plain = st.none() | st.booleans() | st.integers(-10, 10) | st.floats(allow_nan=False) | st.text(max_size=5)
trees = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(0, 5) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def equal(a: Any, b: Any) -> bool:
    """Whether two trees are of one shape, one type everywhere, and one content."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return [*a] == [*b] and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


# -- checkpoints ------------------------------------------------------------------------------------------------------


@given(tree=trees)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tree_comes_back_through_json(tree: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    skeleton = json.loads(json.dumps(pack(tree, tensors)))
    assert equal(unpack(skeleton, tensors), tree)


def test_an_optimiser_continues_from_its_packed_state() -> None:
    def made() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 1)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1)

    def step(net: torch.nn.Linear, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        net(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()

    net, optimiser = made()
    step(net, optimiser)
    tensors: dict[str, torch.Tensor] = {}
    skeleton = pack(optimiser.state_dict(), tensors)
    other, again = made()
    other.load_state_dict(net.state_dict())
    again.load_state_dict(unpack(json.loads(json.dumps(skeleton)), {k: t.clone() for k, t in tensors.items()}))
    step(net, optimiser)
    step(other, again)
    assert torch.equal(net.weight, other.weight)


def test_a_checkpoint_is_safetensors_and_json_and_only_two_are_kept(tmp_path: Path) -> None:
    for number in range(1, 5):
        state = {"weights": {"w": torch.full((2, 2), float(number))}, "step": number, "betas": (0.9, 0.99)}
        save_checkpoint(tmp_path, number, state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000003", "00000004"]
    assert load_file(tmp_path / "00000004" / "state.safetensors")["/weights/w"].tolist() == [[4.0, 4.0]] * 2
    found = load_latest(tmp_path)
    assert found is not None and found[0] == 4 and equal(found[1], state)


def test_no_checkpoint_is_none_and_a_state_without_tensors_is_kept(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "nothing") is None
    save_checkpoint(tmp_path, 1, {"done": ["warm"]})
    assert load_latest(tmp_path) == (1, {"done": ["warm"]})


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
def test_damage_to_any_file_falls_back_to_the_one_before(tmp_path: Path, file: str) -> None:
    for number in (1, 2):
        save_checkpoint(tmp_path, number, {"w": torch.ones(3) * number})
    damaged = tmp_path / "00000002" / file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match="falling back to the checkpoint before it"):
        found = load_latest(tmp_path)
    assert found is not None and found[0] == 1 and found[1]["w"].tolist() == [1.0] * 3
    (tmp_path / "00000001" / file).unlink()
    with pytest.warns(UserWarning), pytest.raises(BadCheckpoint, match="start the run again in another directory"):
        load_latest(tmp_path)


def test_a_checkpoint_that_was_not_finished_does_not_count(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"w": torch.ones(1)})
    os.rename(tmp_path / "00000001", tmp_path / ".00000001.part")
    assert load_latest(tmp_path) is None


# -- columns and journals ---------------------------------------------------------------------------------------------


def test_columns_come_back_as_they_were(tmp_path: Path) -> None:
    columns = {
        "tokens": torch.arange(6).view(2, 3), "mask": torch.tensor([[True, False, True]] * 2),
        "half": torch.ones(2, dtype=torch.bfloat16), "said": ["naïve", "東京"], "tree": [{"a": [1, None]}, {}],
    }  # fmt: skip
    (tmp_path / "rows").write_bytes(pack_columns(columns))
    assert equal({k: unpack_columns(tmp_path / "rows")[k] for k in columns}, columns)
    (tmp_path / "words").write_bytes(pack_columns({"said": ["a"]}))
    assert unpack_columns(tmp_path / "words") == {"said": ["a"]}


@pytest.mark.parametrize("content", [b"", b"\x10", b"not safetensors at all", b"\xff" * 64])
def test_other_files_are_not_columns(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(BadData, match="rows is damaged"):
        unpack_columns(tmp_path / "rows")


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_journal_gives_back_what_was_finished(tmp_path: Path, on_disk: bool) -> None:
    journal = Journal(tmp_path / "ask" if on_disk else None)
    assert journal.read(0) is None
    journal.write(0, {"x": torch.tensor([1.5])})
    found = journal.read(0)
    assert found is not None and found["x"].tolist() == [1.5] and journal.read(1) is None
    assert (tmp_path / "ask" / "000000.safetensors").exists() is on_disk


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_have_the_rights_that_the_shell_would_give_them(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "one.json", b"{}")
    (tmp_path / "two.json").write_bytes(b"{}")
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("deep/one.json", "two.json")]
    assert modes[0] == modes[1] and [p.name for p in (tmp_path / "deep").iterdir()] == ["one.json"]


def test_where_nothing_can_be_written_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*file/run\.json.*continue with --resume"):
        write_atomically(tmp_path / "file" / "run.json", b"{}")


# -- runs -------------------------------------------------------------------------------------------------------------


def held(path: Path) -> Any:
    return json.loads((path / "run.json").read_text())


def test_a_run_says_how_it_ended(tmp_path: Path) -> None:
    with Run(tmp_path / "done", {"key": "kd"}) as run:
        assert held(tmp_path / "done")["status"] == "running"
        run.update(figure=1.5)
    assert held(tmp_path / "done") == {"key": "kd", "status": "done", "figure": 1.5}
    for error, status in ((KeyboardInterrupt, "interrupted"), (ValueError, "failed")):
        with pytest.raises(error), Run(tmp_path / status, {"key": "kd"}):
            raise error
        assert held(tmp_path / status)["status"] == status


def test_metrics_are_lines_of_json_and_can_be_taken_back(tmp_path: Path) -> None:
    with Run(tmp_path, {"key": "kd"}) as run:
        run.log({"step": 0, "loss": 2.0})
        kept = run.logged()
        run.log({"step": 1, "loss": float("1e9")})
        run.rewind(kept)
        run.log({"step": 1, "loss": 1.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.0}]


def test_a_run_without_a_directory_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Run(None, {"key": "kd"}) as run:
        run.log({"step": 0})
        run.rewind(0)
        assert run.logged() == 0
    assert run.record["status"] == "done" and list(tmp_path.iterdir()) == []


def test_other_processes_only_read(tmp_path: Path) -> None:
    with Run(tmp_path / "shared", {"key": "kd"}, main=False) as run:
        run.log({"step": 0})
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"key": "gkd", "seed": 0}, r"its key differs \('kd' there, 'gkd' here\)"),
        ({"key": "kd", "seed": 1}, r"its seed differs \(0 there, 1 here\)"),
        ({"key": "kd", "seed": 0, "more": 1}, r"its more differs \(None there, 1 here\)"),
    ],
)
def test_only_the_same_run_is_continued(tmp_path: Path, record: dict[str, Any], says: str) -> None:
    with Run(tmp_path, {"key": "kd", "seed": 0}):
        pass
    with pytest.raises(RunConflict, match=says), Run(tmp_path, record, resume=True):
        pass


def test_the_first_difference_inside_a_recipe_is_told_by_its_path(tmp_path: Path) -> None:
    def record(lr: float) -> dict[str, Any]:
        return {"resolved": {"student": {"lr": lr, "steps": (1, 2)}}}

    with Run(tmp_path, record(0.1)) as run:
        run.update(figure=3)
    with Run(tmp_path, record(0.1), resume=True) as again:
        assert again.record["figure"] == 3
    with (
        pytest.raises(RunConflict, match=r"student\.lr=0\.1 there, student\.lr=0\.2 here"),
        Run(tmp_path, record(0.2), resume=True),
    ):
        pass


def test_a_directory_in_use_names_the_process(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from limbeck.run import Run\n"
        f"with Run(Path({str(tmp_path)!r}), {{'key': 'kd'}}): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with (
            pytest.raises(RunConflict, match=rf"in use by process {other.pid};"),
            Run(tmp_path, {"key": "kd"}, resume=True),
        ):
            pass
    finally:
        other.communicate("")
    with Run(tmp_path, {"key": "kd"}, resume=True):
        assert held(tmp_path)["status"] == "running"
