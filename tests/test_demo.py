"""The demo, end to end with a few steps on a few rows: what it prints is what its runs measured."""

from __future__ import annotations

import gzip
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from limbeck import demo
from limbeck.beds import arith
from limbeck.evaluate import Examination
from limbeck.index import load
from limbeck.override import override


def small_sentences(folder: Path) -> demo.Job:
    """The first job with the first rows of its data."""
    teacher = demo.embedder()
    if teacher is None:
        pytest.skip(f"the package {demo.PACKAGE}, which holds the teacher, is not installed")
    job = demo.sentences(teacher)
    data, rated = (Path(job.sources[name]) for name in ("data", "eval"))
    with gzip.open(data, "rt", encoding="utf-8") as file:
        (folder / "captions.txt").write_text("".join(next(file) for _ in range(24)))
    (folder / "pairs.csv").write_text("".join(rated.read_text().splitlines(keepends=True)[:25]))
    given = {"data": str(folder / "captions.txt"), "eval": str(folder / "pairs.csv")}
    return replace(job, sources={**job.sources, **given})


def printed(thing: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


def ended(job: demo.Job, out: Path) -> Examination:
    """Run one job and check what every job leaves."""
    told = Console(file=io.StringIO(), width=100)
    page = demo.run([job], out, told, steps=2)
    exam = Examination.load(out / job.name)
    shown = printed(demo.table([out / job.name]))
    assert page.exists() and (out / job.name / "student" / "model.safetensors").exists()
    assert job.about[:30] in told.file.getvalue()  # type: ignore[attr-defined]
    figures = [line.split("│")[2].strip() for line in shown.splitlines() if line.count("│") == 5]
    assert [float(f) for f in figures if f] == [round(v.value, 3) for v in exam.qualities[0].values.values()]
    return exam


@pytest.mark.slow
def test_the_embedder_gets_a_student_of_a_quarter_of_its_size(tmp_path: Path) -> None:
    exam = ended(small_sentences(tmp_path), tmp_path / "out")
    assert exam.qualities[0].name == "Spearman correlation with human ratings"
    assert exam.costs["after"].parameters < 0.25 * exam.costs["teacher"].parameters
    values = {who: interval.value for who, interval in exam.qualities[0].values.items()}
    assert values["teacher"] > 0.8 and values["after"] != values["before"]


def test_the_adding_model_is_examined_on_sums_it_has_not_seen(tmp_path: Path) -> None:
    job = demo.arithmetic(tmp_path, train=64, test=16)
    exam = ended(job, tmp_path / "out")
    assert exam.qualities[0].name == "right answers (greedy)" and exam.qualities[0].values["teacher"].value > 0.9
    asked = [json.loads(line) for line in Path(job.sources["eval"]).read_text().splitlines()]
    assert [row["prompt"] for row in asked] == list(exam.inputs)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    learned = {tuple(sorted(json.loads(line)["prompt"][:-1].split("+"))) for line in lines}
    assert not learned & {tuple(sorted(row["prompt"][:-1].split("+"))) for row in asked}
    assert all(arith.answer_right(row["prompt"], row["completion"]) for row in asked)


def test_the_settings_are_those_of_the_recipe_and_the_commands_can_be_typed(tmp_path: Path) -> None:
    for job in (demo.sentences(tmp_path), demo.arithmetic(tmp_path, train=8, test=8)):
        override(load(job.recipe), dict(job.settings))
        words = shlex.split(job.command(tmp_path / "run"))
        assert words[:3] == ["limbeck", "distill", job.recipe]
        typed = dict(word.split("=", 1) for word in words if word.partition("=")[0] in job.settings)
        assert override(load(job.recipe), typed) == override(load(job.recipe), dict(job.settings))
    # The longest solution with the token that ends it fits into the student's answers.
    longest = max(len(arith.solution(p)) for p in [(99, 99), (10, 90)]) + 1
    assert job.settings["distill.student.batch.on_policy.max_new_tokens"] >= longest


def test_runs_never_share_a_directory(tmp_path: Path) -> None:
    assert demo.fresh(tmp_path).name == "demo-1"
    (tmp_path / "demo-1").mkdir()
    assert demo.fresh(tmp_path).name == "demo-2"
