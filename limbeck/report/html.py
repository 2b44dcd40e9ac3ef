"""The report as one self-contained page, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from limbeck.errors import BadData
from limbeck.report.blocks import Section, Table, cell_of
from limbeck.report.reading import Record, read_run
from limbeck.report.sections import sections, summary, took
from limbeck.report.words import headline
from limbeck.run import write_atomically

__all__ = ["Page", "Story", "write_report"]

ROWS = (
    "Intervals: 95%, bootstrap over rows (Wilson's where all rows agree). Tests: two-sided, paired over rows; ≤ marks "
    "the smallest p that a test can give."
)


@dataclass(frozen=True)
class Story:
    """One thing told: a run, or a comparison."""

    name: str
    headline: str
    about: str
    sections: list[Section]


@dataclass(frozen=True)
class Page:
    """A page without anything outside it, and the same as Markdown.

    Args:
        title: what the page is.
        stories: what it tells.
        note: how intervals and tests were made.
        compared: a table of all stories, where there are several.
    """

    title: str
    stories: list[Story]
    note: str = ROWS
    compared: Table | None = None

    def html(self) -> str:
        """The page, with its style and its drawings inside."""
        environment = Environment(
            loader=PackageLoader("limbeck.report", ""),
            autoescape=select_autoescape(["j2"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        css = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
        return environment.get_template("page.html.j2").render(page=self, css=Markup(css))

    def markdown(self) -> str:
        """The same as Markdown; what drawings say is said in words."""
        parts = [f"# {cell_of(self.title)}"]
        if self.compared is not None:
            parts.append(self.compared.markdown())
        for story in self.stories:
            if self.compared is not None:
                parts.append(f"## {cell_of(story.name)}")
            parts += [f"**{cell_of(story.headline)}**", cell_of(story.about)]
            parts += [section.markdown(2 if self.compared is None else 3) for section in story.sections]
        return "\n\n".join(parts) + "\n"

    def write(self, path: Path) -> Path:
        """Write the page, and its Markdown beside it under the same name with `.md`; returns the path of the page.

        Raises:
            RunError: the files cannot be written.
        """
        write_atomically(path, self.html().encode())
        write_atomically(path.with_suffix(".md"), self.markdown().encode())
        return path


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write what runs gave as one page without anything outside it, and the same as Markdown beside it.

    Args:
        runs: run directories, complete or not; several make one page with a table to compare them.
        out: the page, or a directory for it; by default `report.html` in the run, or beside the runs if several.

    Returns:
        The path of the page; the Markdown has the same name with `.md`.

    Raises:
        BadData: no run was given, or a directory is not that of a run.
        RunError: the files cannot be written.
    """
    records = [read_run(Path(run)) for run in runs]
    if not records:
        raise BadData("a report needs at least one run directory")
    compared = summary(records) if len(records) > 1 else None
    title = f"Distillation with {records[0].recipe}" if len(records) == 1 else f"{len(records)} distillations"
    page = Page(title, [_story(record) for record in records], compared=compared)
    return page.write(_place([record.path for record in records], out))


def _place(runs: Sequence[Path], out: Path | None) -> Path:
    if out is None:
        return (runs[0] if len(runs) == 1 else runs[0].resolve().parent) / "report.html"
    return Path(out) if Path(out).suffix == ".html" else Path(out) / "report.html"


def _story(record: Record) -> Story:
    name, time = record.path.resolve().name, took(record.run)
    lasted = "" if time == "not known" else f", took {time}"
    return Story(
        name=f"{name} ({record.recipe})",
        headline=headline(record.exam, record.status),
        about=f"Run {name}, recipe {record.recipe}, {record.status}{lasted}",
        sections=sections(record),
    )
