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

__all__ = ["write_report"]


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
    page = _place([record.path for record in records], out)
    stories = [_story(record) for record in records]
    compared = summary(records) if len(records) > 1 else None
    title = f"Distillation with {records[0].recipe}" if len(records) == 1 else f"{len(records)} distillations"
    write_atomically(page, _html(title, stories, compared).encode())
    write_atomically(page.with_suffix(".md"), _markdown(title, stories, compared).encode())
    return page


def _place(runs: Sequence[Path], out: Path | None) -> Path:
    if out is None:
        return (runs[0] if len(runs) == 1 else runs[0].resolve().parent) / "report.html"
    return Path(out) if Path(out).suffix == ".html" else Path(out) / "report.html"


@dataclass(frozen=True)
class Story:
    """One run, told."""

    name: str
    headline: str
    about: str
    sections: list[Section]


def _story(record: Record) -> Story:
    name, time = record.path.resolve().name, took(record.run)
    lasted = "" if time == "not known" else f", took {time}"
    return Story(
        name=f"{name} ({record.recipe})",
        headline=headline(record.exam, record.status),
        about=f"Run {name}, recipe {record.recipe}, {record.status}{lasted}",
        sections=sections(record),
    )


def _html(title: str, stories: list[Story], compared: Table | None) -> str:
    environment = Environment(
        loader=PackageLoader("limbeck.report", ""),
        autoescape=select_autoescape(["j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    template = environment.get_template("page.html.j2")
    return template.render(title=title, css=Markup(css), stories=stories, compared=compared)


def _markdown(title: str, stories: list[Story], compared: Table | None) -> str:
    parts = [f"# {cell_of(title)}"]
    if compared is not None:
        parts.append(compared.markdown())
    for story in stories:
        if compared is not None:
            parts.append(f"## {cell_of(story.name)}")
        parts += [f"**{cell_of(story.headline)}**", cell_of(story.about)]
        parts += [section.markdown(2 if compared is None else 3) for section in story.sections]
    return "\n\n".join(parts) + "\n"
