"""The model card: the README.md of an exported student, in the form that model hubs read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from limbeck.evaluate import Examination
from limbeck.report.blocks import Block, Bullets, Code, Para, Section
from limbeck.report.doubts import doubts
from limbeck.report.reading import Record, read_run
from limbeck.report.sections import quality_tables
from limbeck.report.words import headline
from limbeck.run import write_atomically

__all__ = ["About", "write_card"]

HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class About:
    """What a card says that a run does not know.

    Args:
        name: the name of the student.
        teacher: the teacher: a hub name, or words.
        base_model: what the student started from: a hub name, or words.
        license: an identifier that hubs know ("apache-2.0"); empty means not stated.
        licenses: "teacher" and "data" to their licences; what is missing is "not stated".
        library: the library that loads it ("transformers").
        task: the hub's name of the task ("text-classification").
        datasets: hub names of the data, or words.
        load: the code that loads it.
        citation: BibTeX of the method.
    """

    name: str
    teacher: str = ""
    base_model: str = ""
    license: str = ""
    licenses: Mapping[str, str] = field(default_factory=dict)
    library: str = ""
    task: str = ""
    datasets: Sequence[str] = ()
    load: str = ""
    citation: str = ""


def write_card(folder: Path, run: Path, about: About) -> Path:
    """Write the model card of an exported student.

    Args:
        folder: the directory of the exported student.
        run: the run directory that it comes from.
        about: what the run does not know.

    Returns:
        The path of `README.md`.

    Raises:
        BadData: `run` is not a run directory.
        RunError: the file cannot be written.
    """
    record = read_run(run)
    front = yaml.safe_dump(_front(record, about), sort_keys=False, allow_unicode=True)
    sections = [section.markdown() for section in _sections(record, about) if section.blocks]
    text = "\n\n".join([f"---\n{front}---", f"# {about.name}", *sections]) + "\n"
    path = Path(folder) / "README.md"
    write_atomically(path, text.encode())
    return path


def _front(record: Record, about: About) -> dict[str, Any]:
    """The metadata that hubs index; names that no hub would resolve stay in the text."""
    front: dict[str, Any] = {
        "license": about.license or "unknown",
        "library_name": about.library,
        "pipeline_tag": about.task,
        "base_model": about.base_model if HUB.fullmatch(about.base_model) else "",
        "datasets": [name for name in about.datasets if HUB.fullmatch(name)],
        "tags": ["distillation", "limbeck", record.recipe],
    }
    return {key: value for key, value in front.items() if value}


def _sections(record: Record, about: About) -> list[Section]:
    exam = record.exam or Examination()
    load: list[Block] = [Code(about.load, "python")] if about.load else []
    cite: list[Block] = [Code(about.citation, "bibtex")] if about.citation else []
    limits = [*doubts(record), "It inherits errors and biases of its teacher; none were searched for beyond the above."]
    return [
        Section("What it is", [Para(headline(record.exam, record.status)), Para(_origin(about))]),
        Section("How it was made", _made(record)),
        Section("Quality", quality_tables(exam)),
        Section("Limits, and what is not known", [Bullets([("", text) for text in limits])]),
        Section("Licences", [Bullets([("", text) for text in _licenses(record, about)])]),
        Section("How to load it", load),
        Section("Citation", cite),
    ]


def _origin(about: About) -> str:
    data = ", ".join(about.datasets) or "not stated"
    return f"Teacher: {about.teacher or 'not stated'}. Started from: {about.base_model or 'not stated'}. Data: {data}."


def _made(record: Record) -> list[Block]:
    run = record.run
    versions = ", ".join(f"{name} {version}" for name, version in (run.get("versions") or {}).items())
    seed = f", seed {run['seed']}" if run.get("seed") is not None else ""
    blocks: list[Block] = [Para(f"By distillation with limbeck, recipe {record.recipe}{seed} ({versions}).")]
    if run.get("argv"):
        blocks.append(Code(shlex.join(map(str, run["argv"])), "sh"))
    if run.get("parts"):
        blocks.append(Para(f"Parts: {'; '.join(run['parts'])}."))
    return blocks


def _licenses(record: Record, about: About) -> list[str]:
    stated = {**(record.run.get("licenses") or {}), **about.licenses}
    return [
        f"This student: {about.license or 'not stated'}.",
        f"Teacher: {stated.get('teacher') or 'not stated'}.",
        f"Data: {stated.get('data') or 'not stated'}.",
    ]
