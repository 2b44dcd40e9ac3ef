"""Rows from files: what is read is what was written, and what is broken is refused in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from limbeck.adapters.data import Images, Records, Subset, hold_out, need, open_data
from limbeck.adapters.text import Tokens
from limbeck.data import Table
from limbeck.errors import BadData

ROWS = [{"text": f"row {i}", "label": i % 3} for i in range(7)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's cache, away from the user's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def everything(source: Any) -> Any:
    return source.take(torch.arange(len(source)))


def write_rows(path: Path) -> Path:
    table = datasets.Dataset.from_list(ROWS)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if path.name == "saved":
        table.save_to_disk(path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".jsonl":
        path.write_text(lines)
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(table.data.table, path)
    else:
        options = pyarrow.csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        pyarrow.csv.write_csv(table.data.table, path, options)
    return path


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "a.csv", "a.tsv", "saved"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = open_data(write_rows(tmp_path / name))
    columns = everything(rows)
    assert columns["text"] == [row["text"] for row in ROWS]
    assert columns["label"].tolist() == [row["label"] for row in ROWS]
    # The fingerprint is of the content, not of the file.
    assert rows.fingerprint == Records(datasets.Dataset.from_list(ROWS)).fingerprint


def test_patterns_folders_and_first_rows(tmp_path: Path) -> None:
    for i in range(2):
        write_rows(tmp_path / f"part{i}.jsonl")
    assert len(open_data(tmp_path / "part*.jsonl")) == len(open_data(tmp_path)) == 14
    assert len(open_data(tmp_path / "part0.jsonl", take=3)) == 3


def test_text_is_a_row_a_line_or_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert everything(open_data(tmp_path / "a.txt"))["text"] == ["one", "two"]
    assert everything(open_data(tmp_path / "a.txt", whole=True))["text"] == ["one\n\ntwo\n"]


def test_npz_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.eye(3), y=np.arange(3, dtype=np.int32))
    columns = everything(open_data(tmp_path / "a.npz"))
    assert columns["x"].dtype == torch.float32 and columns["y"].dtype == torch.int64
    assert torch.equal(columns["x"], torch.eye(3))


def test_image_folder(tmp_path: Path) -> None:
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (6, 4), (255 * i, 0, 51)).save(tmp_path / name / "1.png")
    columns = everything(open_data(tmp_path))
    # Channels first, in [0, 1]; classes in the order of the folders' names.
    assert columns["x"].shape == (2, 3, 4, 6) and columns["y"].tolist() == [0, 1]
    assert columns["x"][1, :, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])
    Image.new("RGB", (5, 5)).save(tmp_path / "dog" / "2.png")
    mixed = open_data(tmp_path)
    with pytest.raises(BadData, match="different sizes \\(5x5, 6x4\\)"):
        everything(mixed)
    assert isinstance(mixed, Images) and everything(Images(mixed.records, 8))["x"].shape == (3, 3, 8, 8)


BROKEN = {
    "empty.jsonl": (b"", "is empty"),
    "cut.jsonl": (b'{"text": "a"}\n{"text": "b', r"cut.jsonl:2: broken JSON"),
    "latin.csv": ("x\nfa\u00e7ade\n".encode("latin-1"), r"latin.csv:2: not UTF-8"),
    "latin.txt": ("fa\u00e7ade\n".encode("latin-1"), r"latin.txt:1: not UTF-8"),
    "row.tsv": (b"a fine film\t1\nno\t0\n", "first line must name the columns, but holds '1'"),
    "head.csv": (b"x,y\n", "cannot be read as csv"),
    "gap.csv": (b"x,y\n1.5,2\n,3\n", "column 'x' is empty, NaN or infinite in row 2"),
    "nan.jsonl": (b'{"x": 1.0}\n{"x": NaN}\n', "column 'x' is empty, NaN or infinite in row 2"),
    "bad.parquet": (b"PAR1 and more", "cannot be read as parquet"),
    "bad.npz": (b"PK no zip", "cannot be read as .npz"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=message) as caught:
        open_data(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_arrays_that_cannot_be_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "object.npz", x=np.array([{}], dtype=object))
    np.savez(tmp_path / "ragged.npz", x=np.zeros((3, 2)), y=np.arange(2))
    np.savez(tmp_path / "scalar.npz", x=np.float64(3))
    np.savez(tmp_path / "nan.npz", x=np.array([[0.0], [np.nan]]))
    for name, message in [
        ("object", "plain arrays"),
        ("ragged", "one length"),
        ("scalar", "row axis"),
        ("nan", "row 1"),
    ]:
        with pytest.raises(BadData, match=message):
            open_data(tmp_path / f"{name}.npz")


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl")
    with pytest.raises(BadData, match=r"did you mean '.*train.jsonl'"):
        open_data(tmp_path / "trian.jsonl")
    with pytest.raises(BadData, match="no column 'txt'; did you mean 'text'"):
        need(open_data(tmp_path / "train.jsonl"), "txt")
    (tmp_path / "none").mkdir()
    with pytest.raises(BadData, match="no file of a known kind"):
        open_data(tmp_path / "none")


def test_the_hub_offline_is_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def no_network(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "dataset_info", no_network)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(BadData, match="the hub gives no data set of that name: no route"):
        open_data("owner/name")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.floats(0.05, 0.95), st.randoms())
def test_a_row_and_its_copies_fall_on_one_side(values: list[int], share: float, random: Any) -> None:
    if len(set(values)) < 2:
        return

    def sides(order: list[int]) -> tuple[set[int], set[int], int]:
        split = hold_out(Table({"x": torch.tensor(order)}), share)
        train, held = (everything(s)["x"].tolist() for s in split[:2])
        assert len(train) + len(held) + split.repeated == len(order)
        assert len(set(train)) == len(train) and len(set(held)) == len(held)
        return set(train), set(held), split.repeated

    train, held, _ = sides(values)
    assert train and held and not train & held and train | held == set(values)
    # The order of the rows does not matter.
    shuffled = random.sample(values, len(values))
    assert sides(shuffled)[:2] == (train, held)


def test_the_split_has_about_the_share_and_grows_with_the_data() -> None:
    small, large = (hold_out(Table({"x": torch.arange(n)}), 0.2) for n in (1000, 2000))
    # 400 expected of 2000, with a standard deviation of 18.
    assert abs(len(large.held) - 400) < 75
    # A row keeps its side when rows are added.
    assert set(everything(small.held)["x"].tolist()) == {i for i in everything(large.held)["x"].tolist() if i < 1000}


def test_the_columns_that_decide() -> None:
    rows = Records(
        datasets.Dataset.from_dict({"prompt": ["Hi  there", "hi there", "other"], "answer": ["a", "b", "c"]})
    )
    split = hold_out(rows, 0.5, by=["prompt"])
    sides = [everything(s)["prompt"] for s in split[:2]]
    # Two answers to what is one question but for case and spaces stay together, and neither is dropped.
    assert sorted(map(len, sides)) == [1, 2] and split.repeated == 0


def test_padding_does_not_decide() -> None:
    rows = [[1, 2], [3, 4, 5], [6], *[[9] * n for n in range(1, 300)], [1, 2]]
    assert hold_out(Tokens({"tokens": rows})).repeated == 1


def test_real_files(real_data: Path) -> None:
    # Every row is on one side or counted as a repetition; the share is about a tenth (standard deviation 9.5).
    alpaca = open_data(real_data / "alpaca_en_999" / "alpaca_en_demo.json")
    split = hold_out(alpaca, 0.1, by=["instruction", "input"])
    assert len(split.train) + len(split.held) + split.repeated == 999 and 60 < len(split.held) < 140
    assert len(open_data(real_data / "gsm8k" / "test.jsonl")) == 1319


def test_too_few_rows_to_split() -> None:
    with pytest.raises(BadData, match="two different rows"):
        hold_out(Table({"x": torch.ones(5)}))


def test_subset_takes_the_chosen_rows() -> None:
    subset = Subset(Table({"x": torch.arange(5)}), torch.tensor([3, 1]))
    assert len(subset) == 2 and subset.take(torch.tensor([1]))["x"].tolist() == [1]
    assert subset.fingerprint != Subset(Table({"x": torch.arange(5)}), torch.tensor([1, 3])).fingerprint
