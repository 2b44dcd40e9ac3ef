"""A recipe in a file of one's own: written, verified and run as one from the package, but never kept as evidence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import limbeck.claim
from limbeck import skeleton
from limbeck.adapters.modules import from_factory
from limbeck.commands import app
from limbeck.index import load
from limbeck.override import override


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return skeleton.write("my-method", tmp_path)


def test_its_claim_is_run_from_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def verify(key: str, **_: object) -> dict[str, object]:
        asked.append(key)
        return {"key": key, "status": "holds"}

    monkeypatch.setattr(limbeck.claim, "verify", verify)
    done = CliRunner().invoke(app, ["verify", str(file)])
    assert done.exit_code == 0 and asked == [str(file)]


def test_its_evidence_is_not_kept_in_the_package(file: Path) -> None:
    before = sorted(limbeck.claim.EVIDENCE.iterdir())
    done = CliRunner().invoke(app, ["verify", str(file), "--write"])
    assert done.exit_code == 2 and "--write keeps evidence of the package's recipes" in done.output
    assert sorted(limbeck.claim.EVIDENCE.iterdir()) == before


def test_the_control_of_a_new_recipe_switches_its_part_off(file: Path) -> None:
    recipe = load(str(file))
    assert recipe.claim is not None
    control = override(recipe, recipe.claim.arms[recipe.claim.control].set)
    assert "0.0 * matching" in repr(control.stages) and "1.0 * matching" in repr(recipe.stages)


def test_a_module_in_the_present_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed command does not have the folder on its path by itself."""
    (tmp_path / "own_nets_of_a_test.py").write_text("from torch.nn import Identity as student\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    done = CliRunner().invoke(
        app, ["distill", "vkd", "--student", "own_nets_of_a_test:no", "--data", "digits", "--dry-run"]
    )
    assert done.exit_code == 2 and "unknown factory 'no' in own_nets_of_a_test" in done.output
    assert type(from_factory("own_nets_of_a_test:student").net).__name__ == "Identity"
