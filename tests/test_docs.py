"""The documentation does what it says: its code runs, its commands exist, every recipe has its page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from limbeck.commands import app
from limbeck.index import keys
from tools import pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
WRITTEN = [path for path in WRITTEN if path.stem not in ("api", "parts", "beds")]
TRAINING = [ROOT / "README.md", DOCS / "tutorial.md"]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")


def blocks(path: Path, *languages: str) -> list[str]:
    """The code blocks of a page in these languages."""
    return re.findall(rf"(?ms)^ *```(?:{'|'.join(languages)})\n(.*?)^ *```$", path.read_text(encoding="utf-8"))


def commands() -> list[tuple[str, str]]:
    """Every `limbeck ...` line of every page, with the name of the page."""
    lines = [
        (path.name, line.strip()) for path in WRITTEN for block in blocks(path, "sh") for line in block.splitlines()
    ]
    started = re.compile(r"^(?:accelerate launch .*?-m |torchrun .*?-m )?limbeck ")
    return [(name, started.sub("", line)) for name, line in lines if started.match(line)]


def run(pages: list[Path], folder: Path) -> None:
    """Run the code of pages, each from top to bottom with names of its own, in one fresh process."""
    code = [f"exec({chr(10).join(blocks(page, 'python'))!r}, {{'__name__': {page.stem!r}}})" for page in pages]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", TRAINING, ids=lambda p: p.stem)
def test_the_code_of_a_page_that_trains_runs(page: Path, tmp_path: Path) -> None:
    run([page], tmp_path)


def test_the_code_of_all_other_pages_runs(tmp_path: Path) -> None:
    others = [page for page in WRITTEN if page not in TRAINING and blocks(page, "python")]
    assert len(others) >= 5
    run(others, tmp_path)


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_line_could_be_given(page: str, line: str) -> None:
    """The command and its options exist, and so do the recipes that it names; nothing is run."""
    group = typer.main.get_command(app)
    name, *args = shlex.split(line)
    assert name in group.commands, f"{page}: no command {name}"
    command = group.commands[name]
    if hasattr(command, "commands"):
        command = command.commands[args.pop(0)]
    given = [arg for arg in args if not arg.endswith("run.yaml") and arg != "--config"]
    context = command.make_context(name, given)
    asked = context.params.get("keys") or [context.params.get("key") or ""]
    mine = {"KEY", "my-method", ""}
    recipes = {k for k in asked if not k.endswith(".py") and not k.startswith("runs/")}
    assert recipes <= {*keys(), *mine}, f"{page}: {line}"


def test_the_check_of_command_lines_can_fail() -> None:
    command = typer.main.get_command(app).commands["distill"]
    with pytest.raises(Exception, match="--teecher"):
        command.make_context("distill", ["kd", "--teecher", "x"])


@pytest.mark.parametrize("page", [*WRITTEN, ROOT / "CHANGELOG.md", ROOT / "LOG.md"], ids=lambda p: p.stem)
def test_links_between_files_resolve(page: Path) -> None:
    made = {"recipes/index.md", "parts.md", "beds.md", "api.md"}  # written by tools/pages.py
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target and target not in made:
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_every_recipe_has_a_page_and_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pages are written for all recipes, no more and no fewer, and pages of recipes that are gone are taken away."""
    readme = tmp_path / "README.md"
    readme.write_text("<!-- counts -->\nold\n<!-- /counts -->\n")
    monkeypatch.setattr(pages, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    gone = tmp_path / "docs" / "recipes" / "gone.md"
    gone.parent.mkdir(parents=True)
    gone.write_text("# gone")
    assert pages.main() == 0
    assert {p.stem for p in gone.parent.glob("*.md")} == {*keys(), "index"}
    index = (gone.parent / "index.md").read_text()
    assert all(f"[{key}]({key}.md)" in index for key in keys())
    assert f"| all | {index.split('| all | ')[1].splitlines()[0]}" in readme.read_text()
    for name in ("parts", "beds", "api"):
        assert (tmp_path / "docs" / f"{name}.md").stat().st_size > 1000


def test_evidence_is_shown_seed_by_seed() -> None:
    verdict = {"says": "a[x] >= a[y] + 1", "left": [3.0], "right": [1.5], "effect": 1.5, "bound": 0.2, "holds": True}
    known = {"bed": "digits", "seeds": 1, "seconds": 2.0, "verdicts": [verdict], "control": None}
    shown = "\n".join(pages._evidence(known, "holds"))
    assert "| 0 | 3 | 1.5 |" in shown and "prove nothing" not in shown
    assert "prove nothing" in "\n".join(pages._evidence(known, "unproved"))


def test_nested_lists_are_indented_for_the_web_and_code_is_not() -> None:
    assert pages.deeper("- a\n  - b\n```\n  - c\n```") == "- a\n    - b\n```\n  - c\n```"
