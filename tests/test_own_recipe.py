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
from limbeck.errors import RunConflict
from limbeck.index import find, load
from limbeck.override import override


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (path,) = skeleton.write("my-method", tmp_path)
    return path


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A family of recipes in a checkout."""
    folder = tmp_path / "limbeck" / "recipes" / "lm"
    folder.mkdir(parents=True)
    (tmp_path / "limbeck" / "claims").mkdir()
    return folder


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


def test_in_a_checkout_recipe_and_claim_are_two_files_that_say_what_one_does(file: Path, family: Path) -> None:
    paths = skeleton.write("my-method", family)
    assert paths == [family / "my_method.py", family.parents[1] / "claims" / "my_method.py"]
    here = find("my-method", family.parents[1])
    assert here == find(str(file)) | {"family": "lm"} and here["claim"] == "accuracy[mine] >= accuracy[alone] + 0.005"
    assert "Claim" not in paths[0].read_text()
    two = load(str(paths[0]))
    assert two.claim is None and repr((two.players, two.stages)) == repr((load(str(file)).players, two.stages))
    made: dict[str, object] = {}
    exec(paths[1].read_text(), made)
    assert repr(made["claim"]) == repr(load(str(file)).claim)


def test_the_command_says_how_to_run_what_it_wrote(family: Path) -> None:
    for folder, name in ((family, "my-method"), (family.parents[2], f"{family.parents[2]}/my_method.py")):
        done = CliRunner().invoke(app, ["new", "my-method", "--in", str(folder)])
        assert done.exit_code == 0 and done.output.splitlines()[-1] == f"limbeck verify {name}"


@pytest.mark.parametrize("taken", ["recipes/lm/my_method.py", "claims/my_method.py"])
def test_a_new_recipe_overwrites_nothing(family: Path, taken: str) -> None:
    path = family.parents[1] / taken
    path.write_text("mine")
    with pytest.raises(RunConflict, match=f"{taken} exists already"):
        skeleton.write("my-method", family)
    assert [p.read_text() for p in family.parents[1].rglob("*.py")] == ["mine"]


def test_a_folder_that_is_no_family_of_a_checkout_gets_one_file(tmp_path: Path, family: Path) -> None:
    for folder in (tmp_path / "limbeck", family.parent, tmp_path / "recipes" / "lm"):
        folder.mkdir(parents=True, exist_ok=True)
        assert skeleton.write("my-method", folder) == [folder / "my_method.py"]
    assert [*skeleton._texts("my-method", Path("/"))] == [Path("/my_method.py")]


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
