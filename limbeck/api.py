"""The Python interface: what every command calls, and what works from a notebook.

import limbeck
run = limbeck.distill("gkd", teacher="./big", student="./small", data="prompts.jsonl", out="runs/a")
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from limbeck import claim as claims
from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.consistent import checked_together
from limbeck.adapters.data import hold_out, open_data
from limbeck.adapters.listing import Listing
from limbeck.adapters.pipeline import INDEX, Denoiser
from limbeck.adapters.pipeline_store import how_to_load, save_pipeline
from limbeck.adapters.recalled import Recalled, only_remembers
from limbeck.adapters.remote import Remote, asking
from limbeck.adapters.sentence import Sentence
from limbeck.adapters.seq2seq import Seq2Seq
from limbeck.adapters.source import open_player, read_for
from limbeck.adapters.store import save_player
from limbeck.adapters.text import check_tokenizers
from limbeck.averaged import averaged, settled
from limbeck.beds import Bed, beds, load_bed
from limbeck.cite import bibtex
from limbeck.comparison import compare
from limbeck.data import Source, Table, batch_of
from limbeck.describe import describe, specs
from limbeck.errors import BadData, BadValue, unknown
from limbeck.evaluate import Examination
from limbeck.examine import examine, examine_on_bed, examine_pairs
from limbeck.examine_fields import drawn_by, examine_fields
from limbeck.examine_pictures import examine_pictures
from limbeck.index import load, records, search
from limbeck.loop import Loop, Options
from limbeck.override import flatten, override
from limbeck.part import Part
from limbeck.parts.chunks import in_teacher_tokens
from limbeck.parts.guidance import Guided
from limbeck.players import Players, build, moved
from limbeck.probes import classification, language
from limbeck.probes.pictures import ROWS
from limbeck.progress import LiveProgress, Muted, Progress, memory
from limbeck.recipe import Learn, Recipe, walk
from limbeck.report import formulas, write_report
from limbeck.report.card import About, write_card
from limbeck.rng import seed_torch
from limbeck.roles import Role
from limbeck.run import Run
from limbeck.samplers import sampler_of, watched_of
from limbeck.trackers import check_trackers, tracked
from limbeck.watch import Watching

__all__ = ["compare", "distill", "report", "verify"]

HELD_OUT = 0.1
VERSIONS = ("limbeck", "torch", "transformers", "accelerate", "peft", "datasets", "safetensors", "numpy")


@dataclass
class Job:
    """A distillation with everything opened.

    Args:
        recipe: with everything set.
        specs: player to the source it was given as.
        nets: player to net, for the players that the recipe wants to be given.
        data: the splits as the players read them.
        bed: the bed that the data is, if it is one.
        pairs: rated pairs of sentences to examine embedders on: (first, second, rating) columns.
        notes: what the user should know.
    """

    recipe: Recipe
    specs: dict[str, str]
    nets: dict[str, nn.Module]
    data: dict[str, Source]
    bed: Bed | None = None
    pairs: tuple[list[str], list[str], list[float]] | None = None
    notes: list[str] = field(default_factory=list)


def distill(
    recipe_key: str,
    *,
    data: str,
    out: str | Path,
    teacher: str | None = None,
    student: str | None = None,
    eval: str | None = None,
    players: Mapping[str, str] | None = None,
    set: Mapping[str, Any] | None = None,
    seed: int = 0,
    steps: int | None = None,
    batch_size: int | None = None,
    micro_batch: int = 0,
    shard: bool = False,
    precision: str = "no",
    eval_every: int = 0,
    patience: int = 0,
    trackers: Sequence[str] = (),
    average: float = 0.0,
    max_time: float = 0.0,
    resume: bool = False,
    dry_run: bool = False,
) -> Path:
    """Distil a teacher into a student by a recipe, examine the student and write a report.

    Args:
        recipe_key: a key that `limbeck ls` shows, or the path of a recipe file.
        data: rows to learn from: a file, a folder, a name of `datasets`, or a bed.
        out: the run directory.
        teacher: the source of the teacher (see `limbeck.adapters.source`).
        student: the source of the student, such as `from-teacher:layers=6`.
        eval: rows to examine the student on; a hashed tenth of `data` is held out by default.
        players: sources of further players.
        set: dotted path to value, overrides of the recipe.
        seed: the root of every random number.
        steps: steps of every learning stage.
        batch_size: rows of every learning stage's global batch.
        micro_batch: rows at a time in a process.
        shard: cut the weights of every player into shares over the processes (FSDP2).
        precision: "no" or "bf16".
        eval_every: steps between evaluations on held-out rows while learning.
        patience: evaluations without improvement after which a stage ends, with the best weights it had.
        trackers: where else metrics go: tensorboard, wandb, mlflow, trackio.
        average: the decay of a moving average of the product's weights, which is what is kept in the end; 0 for none.
        max_time: seconds after which the run stops, resumable.
        resume: continue the run in `out`.
        dry_run: one step of each stage, nothing written.

    Returns:
        The run directory.

    Raises:
        UserError: a mistake in any of these, found before anything is trained where that is possible.
        RunError: something failed; what was done is kept.
        KeyboardInterrupt: interrupted; the run is resumable.

    Example:
        `distill("gkd", teacher="./big", student="from-teacher:layers=4", data="rows.jsonl", out="runs/a", steps=500)`
    """
    check_trackers(trackers)
    recipe = _sized(override(load(recipe_key), set or {}), steps, batch_size)
    recipe = averaged(recipe, average) if average else recipe
    specs = {"teacher": teacher, "student": student, **(players or {})}
    job = _open(recipe, {name: str(s) for name, s in specs.items() if s is not None}, data, eval, seed)
    accelerator = _accelerator(precision, trackers, Path(out))
    show = LiveProgress() if accelerator.is_main_process else Muted()
    for note in job.notes:
        show.note(note)
    options = Options(
        seed=seed, micro_batch=micro_batch, eval_every=eval_every, patience=patience, max_seconds=max_time,
        probes=_probes(job), max_steps=int(dry_run), shard=shard or accelerator.is_fsdp2,
    )  # fmt: skip
    path = None if dry_run else Path(out)
    record = _record(job, seed)
    here = Run(path, record, resume=resume, main=accelerator.is_main_process)
    logged = tracked(accelerator, () if dry_run else trackers)
    with here as run, logged, asking(job.nets, run, accelerator.process_index):
        run.update(versions=_versions(), host=_host(), argv=sys.argv, parts=formulas(job.recipe), started=_now())
        run.update(rows={"data": data, "eval": eval})
        watch = Watching(show, min(ROWS, len(job.data["test"]) if "test" in job.data else ROWS))
        loop = Loop(job.recipe, job.nets, dict(job.data), options, run, accelerator, watch)
        loop.execute()
        ended = loop.gather()
        run.update(alarms=watch.said)
        if path is not None and accelerator.is_main_process:
            settled(ended, recipe.product)
            _finish(job, ended, loop.data, path, seed, show)
        for net in job.nets.values():
            if isinstance(net, Recalled):
                show.note(str(net.cache))
        run.update(finished=_now())
    if dry_run:
        show.note(f"dry run: one step of each stage works, with {memory()}; nothing was written to {out}")
    elif accelerator.is_main_process:
        show.note(f"report: {write_report([Path(out)])}")
    return Path(out)


def _probes(job: Job) -> dict[str, Part]:
    """What is evaluated on held-out rows while the student learns."""
    student = job.nets.get("student")
    if job.bed is not None:
        return dict(job.bed.probes)
    if isinstance(student, CausalLM | Seq2Seq):
        return {"nll": language.nll()}
    if reader := next((net for net in job.nets.values() if isinstance(net, Denoiser | Guided)), None):
        return watched_of(job.recipe, reader)
    labelled = "test" in job.data and "y" in job.data["test"].take(torch.arange(1))
    return {"nll": classification.nll(), "accuracy": classification.accuracy()} if labelled else {}


def _sized(recipe: Recipe, steps: int | None, batch_size: int | None) -> Recipe:
    """Set steps and batch size of every learning stage."""
    stages = [stage for stage in walk(recipe.stages) if isinstance(stage, Learn)]
    learning = {stage.name for stage in stages if stage.steps or stage.epochs}
    changes: dict[str, int] = {}
    for path in flatten(recipe):
        *above, name = path.split(".")
        value = {"steps": steps, "batch_size": batch_size}.get(name)
        if value is not None and above and above[-1] in learning:
            changes[path] = value
    return override(recipe, changes)


def _open(recipe: Recipe, specs: dict[str, str], data: str, eval: str | None, seed: int) -> Job:
    """Open players and data; a derived player that is given after all is taken as it is given."""
    derived = {n: Role(r.optimizer) for n, r in recipe.players.items() if n in specs and not r.given}
    recipe = replace(recipe, players={**recipe.players, **derived})
    given = [name for name, role in recipe.players.items() if role.given]
    bed = load_bed(data) if data in beds() and not Path(data).exists() else None
    for name in specs:
        if name not in given and name != "teacher":
            raise unknown("player", name, given, where=f"recipe {recipe.key}, which is given")
    if bed is not None:
        specs = {name: f"bed:{data}" for name in given if name in bed.players} | specs
    teacher = open_player(specs["teacher"], role="teacher", seed=seed) if "teacher" in specs else None
    nets = {
        n: open_player(specs[n], role=n, teacher=teacher, seed=seed) for n in given if n in specs and n != "teacher"
    }
    if teacher is not None and "teacher" in given:
        nets["teacher"] = teacher
    _check_servers(recipe, nets, specs)
    _check_light(recipe, nets, specs)
    if bed is not None:
        splits = dict(bed.data(seed))
        if reader := next((net for net in nets.values() if isinstance(net, Denoiser | Guided)), None):
            splits = {name: read_for(reader, rows) for name, rows in splits.items()}
            checked_together(nets.values(), splits["train"])
            return Job(recipe, specs, nets, splits)
        return Job(recipe, specs, nets, splits, bed)
    return _read(Job(recipe, specs, nets, {}), data, eval)


def _check_servers(recipe: Recipe, nets: Mapping[str, nn.Module], specs: Mapping[str, str]) -> None:
    """Refuse models behind a server where the model itself is needed."""
    for name, net in nets.items():
        if isinstance(net, Remote) and recipe.players[name].optimizer is not None:
            raise BadValue(f"the {name} learns, so it must be a model on this machine, not {specs[name]}")
    if (
        isinstance(nets.get("teacher"), Remote)
        and not isinstance(nets["teacher"], Listing)
        and recipe.teacher == "white-box"
    ):
        possible = ", ".join(r["key"] for r in search(records(), teacher="black-box"))
        raise BadValue(
            f"{recipe.key} needs a white-box teacher, and {specs['teacher']} answers with text only; "
            f"recipes for it (limbeck ls --teacher black-box): {possible}; where it lists log-probabilities, as vLLM "
            f"does, give {specs['teacher']}?top=20"
        )


def _check_light(recipe: Recipe, nets: Mapping[str, nn.Module], specs: Mapping[str, str]) -> None:
    """Refuse to teach weights of fewer bits, which do not learn, except through low-rank changes."""
    for name, net in nets.items():
        bits: Any = getattr(net, "bits", None)
        if recipe.players[name].optimizer is not None and bits and not specs[name].startswith("lora:"):
            raise BadValue(f"the {name} learns, and weights of {bits} bits do not; give lora:{specs[name]} for changes")


def _read(job: Job, data: str, eval: str | None) -> Job:
    """Read rows as the student reads them, and hold some out."""
    pipelines = [net for net in job.nets.values() if isinstance(net, Denoiser | Guided)]
    reader = next(iter(pipelines), None) or job.nets.get("student") or next(iter(job.nets.values()))
    theirs, mine = (getattr(job.nets.get(name), "tokenizer", None) for name in ("teacher", "student"))
    if theirs is not None and mine is not None and not _rereads(job.recipe):
        job.notes += check_tokenizers(theirs, mine)
    for net in job.nets.values():
        if isinstance(net, Recalled):
            net.check(reader)
    servers = [net for net in job.nets.values() if isinstance(net, Remote)]
    for server in servers:
        server.listen(reader)
    rows = read_for(reader, open_data(data), requests=bool(servers))
    checked_together(job.nets.values(), rows)
    if eval is None:
        split = hold_out(rows, HELD_OUT)
        job.data |= {"train": split.train, "test": split.held}
        if split.repeated:
            job.notes.append(f"{split.repeated} rows that repeat another were left out")
    else:
        job.data["train"] = rows
        _read_eval(job, reader, eval, bool(servers))
    if any(getattr(stage, "data", "") == "valid" for stage in walk(job.recipe.stages)):
        inner = hold_out(job.data["train"], HELD_OUT)
        job.data |= {"train": inner.train, "valid": inner.held}
    return job


def _rereads(recipe: Recipe) -> bool:
    """Whether the teacher reads the rows in tokens of its own, so that the tokenizers may differ."""
    return in_teacher_tokens in specs(recipe)


def _read_eval(job: Job, reader: nn.Module, spec: str, requests: bool) -> None:
    """Rows to examine on: pairs of sentences with human ratings for embedders, else rows like those learned from."""
    rows = open_data(spec)
    rated = {"sentence1", "sentence2", "score"}
    if isinstance(reader, Sentence):
        if not rated <= {*rows.take(torch.arange(1))}:
            raise BadData(f"{spec}: an embedder is examined on columns sentence1, sentence2 and score (a human rating)")
        columns: Mapping[str, Any] = rows.take(torch.arange(len(rows)))
        first, second, ratings = ([*columns[name]] for name in ("sentence1", "sentence2", "score"))
        job.pairs = first, second, [float(r) for r in ratings]
    else:
        job.data["test"] = read_for(reader, rows, requests=requests)


def _accelerator(precision: str, trackers: Sequence[str], out: Path) -> Accelerator:
    if precision not in ("no", "bf16"):
        raise BadValue(
            f"precision must be 'no' or 'bf16', got {precision!r}: fp16 needs loss scaling, which is not there"
        )
    if AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state()  # another precision was used before in this process
    return Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision=precision, log_with=list(trackers) or None, project_dir=out
    )


def _record(job: Job, seed: int) -> dict[str, Any]:
    """What identifies a run; compared when it is resumed."""
    fingerprints = {name: source.fingerprint for name, source in job.data.items()}
    return {
        "key": job.recipe.key,
        "resolved": describe(job.recipe),
        "players": job.specs,
        "seed": seed,
        "data": fingerprints,
    }


def _versions() -> dict[str, str]:
    out = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _host() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "platform": platform.platform(),
        "processor": platform.processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


# -- after the loop ---------------------------------------------------------------------------------------------------


def _finish(job: Job, players: Players, data: Mapping[str, Source], path: Path, seed: int, show: Progress) -> None:
    """Save the product, examine it, and write report and model card."""
    product = job.recipe.product
    saved = path / product
    module = players[product].module if product in players else None
    pipeline = module if isinstance(module, Denoiser) else job.nets.get("teacher")
    draw = sampler_of(job.recipe)
    if isinstance(pipeline, Denoiser) and (module is pipeline or draw is not None):
        asked = product if module is pipeline else "teacher"  # a learned solver samples its teacher
        for note in save_pipeline(pipeline, saved, draw=draw, asked=asked, others=_modules(players, asked))[1]:
            show.note(note)
    elif module is not None:
        save_player(module, saved)
    elif product in data and isinstance(data[product], Table):
        saved.mkdir(exist_ok=True)
        columns = data[product].take(torch.arange(len(data[product])))
        arrays: dict[str, Any] = {k: c.numpy() for k, c in columns.items() if isinstance(c, torch.Tensor)}
        np.savez(saved / "rows.npz", **arrays)
    show.note("examining teacher, student before and student after on held-out rows")
    exam = _examined(job, players, path, seed)
    if exam is not None:
        exam.save(path)
    if isinstance(job.specs.get("student"), str) and product in players:
        _card(job, saved, path)


def _examined(job: Job, players: Players, path: Path, seed: int) -> Examination | None:
    """Let teacher, student before and student after answer the same rows."""
    built = job.recipe.product in players and job.recipe.players[job.recipe.product].builder is not None
    if job.recipe.product not in players or not ("student" in job.nets or built):
        return None
    product = players[job.recipe.product].module
    device = next(product.parameters()).device  # type: ignore[union-attr]
    nets = {"teacher": players.teacher.module} if "teacher" in players and not _foreign(job) else {}
    nets = {who: net for who, net in nets.items() if net is not None and not only_remembers(net)}
    nets |= {"before": _before(job, seed), "after": product}
    for net in nets.values():
        moved(net, device).eval()  # type: ignore[arg-type]
    disk = {who: Path(p) for who, p in _places(job, path).items() if p and Path(p).exists()}
    if job.bed is not None:
        return examine_on_bed(nets, job.bed, job.data)  # type: ignore[arg-type]
    if isinstance(product, Denoiser):
        others, draw = _modules(players, job.recipe.product), sampler_of(job.recipe) or job.recipe.sampler
        return examine_pictures(nets, job.data["test"], draw, disk, path, others)
    teacher = job.nets.get("teacher")
    if isinstance(teacher, Denoiser | Guided):  # what learns is a solver of its field
        others = {"teacher": teacher}
        return examine_pictures(nets, job.data["test"], sampler_of(job.recipe), disk, path, others, job.recipe.product)
    if job.pairs is not None:
        first, second, ratings = job.pairs
        return examine_pairs(nets, list(zip(first, second, strict=True)), ratings, disk)  # type: ignore[arg-type]
    if _of_points(job.data["test"]) and (draw := drawn_by(job.recipe)) is not None:
        return examine_fields(nets, job.data["test"], draw, disk, _modules(players, "student"))
    return examine(nets, job.data["test"], disk)  # type: ignore[arg-type]


def _of_points(source: Source) -> bool:
    """Whether the rows hold data that can be drawn."""
    x = source.take(torch.arange(min(1, len(source)))).get("x")
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def _modules(players: Players, but: str) -> dict[str, nn.Module]:
    """The nets of all players but one."""
    return {name: p.module for name, p in players.items() if p.module is not None and name != but}


def _foreign(job: Job) -> bool:
    """Whether the teacher cannot read the rows that the student is examined on: they are in other tokens."""
    families = {getattr(job.nets.get(name), "family", "") for name in ("teacher", "student")}
    return job.bed is None and _rereads(job.recipe) and len(families) > 1


def _places(job: Job, path: Path) -> dict[str, str]:
    return {
        "teacher": job.specs.get("teacher", ""),
        "before": job.specs.get("student", ""),
        "after": str(path / job.recipe.product),
    }


def _before(job: Job, seed: int) -> nn.Module | None:
    """The product as it was before: the student, or what is built of it, with the same random weights."""
    fresh = _open(job.recipe, job.specs, job.bed.key, None, seed).nets if job.bed else _reopened(job, seed)
    if job.recipe.product in fresh:
        return fresh[job.recipe.product]
    nets = {name: net.cpu() for name, net in (job.nets | fresh).items()}
    seed_torch(seed, "build")
    rows = batch_of(job.data["train"], torch.arange(min(2, len(job.data["train"]))))
    return build(job.recipe.players, nets, rows)[job.recipe.product].module


def _reopened(job: Job, seed: int) -> dict[str, nn.Module]:
    """The student as it was before; none where it is built of other players."""
    if "student" not in job.specs:
        return {}
    teacher = open_player(job.specs["teacher"], role="teacher", seed=seed) if "teacher" in job.specs else None
    return {"student": open_player(job.specs["student"], role="student", teacher=teacher, seed=seed)}


def _card(job: Job, saved: Path, path: Path) -> None:
    about = About(
        name=saved.resolve().parent.name, teacher=job.specs.get("teacher", ""), base_model=job.specs["student"],
        library=_library(job.nets.get("student")), load=_loading(saved),
        citation=bibtex({"key": job.recipe.key, "title": job.recipe.title, "paper": job.recipe.paper}),
    )  # fmt: skip
    write_card(saved, path, about)


def _library(net: nn.Module | None) -> str:
    """The library that loads what was saved."""
    if isinstance(net, Denoiser):
        return "diffusers"
    return "sentence-transformers" if isinstance(net, Sentence) else "transformers"


def _loading(saved: Path) -> str:
    """The code that loads and samples a saved pipeline; none for other products."""
    return how_to_load(saved) if (saved / INDEX).exists() else ""


# -- other commands ---------------------------------------------------------------------------------------------------


def verify(
    keys: Sequence[str], *, seeds: int | None = None, seed_offset: int = 0, retune: bool = False, write: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> list[dict[str, Any]]:  # fmt: skip
    """Run claims afresh.

    Args:
        keys: the recipes.
        seeds: paired seeds; each claim's own number by default.
        seed_offset: added to every seed; such evidence is never written.
        retune: choose the tuned settings again.
        write: keep the evidence in the package.
        say: receives a line after each run.

    Returns:
        One piece of evidence a recipe (see `limbeck.claim.verify`).

    Raises:
        BadValue: a recipe without a claim, fewer than 3 seeds, or an offset that is to be written.
    """
    if write and seed_offset:
        raise BadValue("evidence made with --seed-offset is never written: seeds are not chosen")
    out = []
    for key in keys:
        evidence = claims.verify(key, seeds=seeds or 0, seed_offset=seed_offset, retune=retune, say=say)
        if write:
            claims.write_evidence(evidence)
        out.append(evidence)
    return out


def report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of one run or several.

    Args:
        runs: run directories.
        out: the HTML file; by default `report.html` in the first run.

    Returns:
        The HTML file; the same as Markdown lies beside it.

    Raises:
        BadData: a directory that holds no run.
    """
    return write_report([Path(run) for run in runs], Path(out) if out else None)
