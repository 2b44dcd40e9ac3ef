"""Data sets are found by name, and refused when they were changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck import library
from limbeck.errors import BadData, BadValue, UnknownName


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path / "home"))
    made = tmp_path / "pairs"
    (made / "deep").mkdir(parents=True)
    (made / "a.csv").write_text("x\n1\n")
    (made / "deep" / "b.csv").write_text("x\n2\n")
    return made


def test_what_is_added_is_found(folder: Path) -> None:
    assert library.names() == []
    place = library.add(folder)
    assert library.find("pairs") == place and library.names() == ["pairs"]
    assert (place / "deep" / "b.csv").read_text() == "x\n2\n"
    assert library.add(folder) == place  # the same again changes nothing


def test_another_folder_of_that_name_is_refused(folder: Path) -> None:
    library.add(folder)
    (folder / "a.csv").write_text("x\n3\n")
    with pytest.raises(BadValue, match="is there already and differs"):
        library.add(folder)


@pytest.mark.parametrize("spoil", ["change", "remove", "add"])
def test_a_changed_file_is_noticed(folder: Path, spoil: str) -> None:
    place = library.add(folder)
    if spoil == "remove":
        (place / "deep" / "b.csv").unlink()
    else:
        (place / ("a.csv" if spoil == "change" else "new.csv")).write_text("y")
    with pytest.raises(BadData, match="is not what was added"):
        library.find("pairs")


def test_a_name_that_is_not_there_gets_a_guess(folder: Path) -> None:
    library.add(folder)
    with pytest.raises(UnknownName, match="did you mean 'pairs'"):
        library.find("pair")


def test_an_empty_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(BadData, match="not a folder with files"):
        library.add(tmp_path / "none")
