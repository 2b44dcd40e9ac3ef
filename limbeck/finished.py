"""Finished runs of pipelines side by side: quality against evaluations, of every student and of their teacher.

A student is read from the directory that its run saved, as anybody would load it: at the levels of a few-step student,
over the fixed grid of a flow map or a learned solver, or by straight steps over the scheduler where it is a field.

Shapes: B rows, C channels, H by W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.adapters.data import hold_out, open_data
from limbeck.adapters.pictures import decode
from limbeck.adapters.pipeline import FACTS, INDEX, Denoiser
from limbeck.adapters.source import open_player, read_for
from limbeck.adapters.weights import read_json
from limbeck.batch import Batch
from limbeck.beds import beds, load_bed
from limbeck.comparison import STEPS, evaluations
from limbeck.data import Source
from limbeck.errors import BadData, BadValue
from limbeck.evaluate import Interval
from limbeck.examine_pictures import sampled_by, seeded, write_grid
from limbeck.index import keys, load
from limbeck.parts.guidance import Guided
from limbeck.parts.solver import in_steps
from limbeck.parts.states import few_step
from limbeck.players import Player, Players, moved
from limbeck.probes.frechet import frechet, kid_interval
from limbeck.probes.pictures import ROWS, judge_of
from limbeck.progress import Progress
from limbeck.report.reading import read_run
from limbeck.roles import frozen
from limbeck.run import write_atomically
from limbeck.samplers import ode_of, read_at, sampler_of, taught_everywhere

__all__ = ["Finished", "Reading", "compare_runs", "replayed"]

KEPT = ".readings.json"
FIELD = (1, 2, 4, 8, 16, 50)  # steps of a field, such as the teacher
HELD_OUT = 0.1
CHUNK, SHOWN = 64, 10

Draw = Callable[[Players, Batch], Tensor]


@dataclass(frozen=True)
class Reading:
    """A model at one number of evaluations.

    Args:
        evaluations: of the net, for one picture.
        made: whether the model was made for that number.
        fid: Frechet distance to the held-out pictures.
        kid: kernel distance, with its interval over pictures.
        seconds: that one picture took, on this machine.
        grid: the file of its first pictures, beside the figures.
    """

    evaluations: int
    made: bool
    fid: float
    kid: Interval
    seconds: float
    grid: str


@dataclass(frozen=True)
class Finished:
    """What `compare_runs` found.

    Args:
        readings: who ("teacher", or a run) to its readings, by rising evaluations.
        recipes: run to recipe.
        features: in which distances are measured, in words.
        rows: pictures that were compared.
        runs: the directories.
        eval: where the rows came from, if it was said.
    """

    readings: Mapping[str, Sequence[Reading]]
    recipes: Mapping[str, str]
    features: str
    rows: int
    runs: Sequence[str] = ()
    eval: str = ""


# -- how a saved pipeline is sampled ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Told:
    """How a net is asked at a step that was written down as numbers."""

    scale: float
    told_: float

    def seen(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * x

    def told(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.told_)


def replayed(steps: Sequence[Mapping[str, Any]]) -> Draw:
    """The sampler that a fixed grid is, from its numbers.

    x_j = sum_k n_jk z_k + sum_{i < j} b_ji h_i,  h_j = net(k_j x_j, told_j)

    Args:
        steps: of `limbeck.json` (see `limbeck.adapters.unrolled`).

    Returns:
        A function `(players, batch)` that asks the student, a net of a pipeline.
    """

    def draw(players: Players, batch: Batch) -> Tensor:
        net: Any = players.student.module
        noises, answers = [_noise(batch, 0)], list[Tensor]()
        x = noises[0]
        for step in steps:
            noises += [_noise(batch, k) for k in range(len(noises), len(step["noises"]))]
            terms = [*zip(step["noises"], noises, strict=False), *zip(step["answers"], answers, strict=False)]
            x = sum((a * z for a, z in terms), torch.zeros_like(x))
            if "told" not in step:
                break
            level = torch.full((batch.size,), float(step["ahead"]), dtype=x.dtype, device=x.device)
            asked = batch.with_(x=x, t=level, **({} if net.second is None else {"s": 0 * level}))
            answers.append(net.say(_Told(step["scale"], step["told"]), asked))
        return x

    return draw


def _noise(batch: Batch, k: int) -> Tensor:
    """The k-th noise of a row; the first is that from which all samplers begin."""
    rng, name = (batch.rng.fold(k - 1), "again") if k else (batch.rng, "z")
    return rng.normal(name, *batch.x.shape[1:]).to(batch.x.dtype)


def _samplers(net: Any, home: Path | None, key: str) -> Iterator[tuple[int | None, Draw, bool]]:
    """How a model is read: evaluations where they are known, the sampler, and whether it was made for that."""
    facts = read_json(home / FACTS) if home is not None and (home / FACTS).exists() else {}
    recipe = load(key) if key in keys() else None
    everywhere = recipe is not None and taught_everywhere(recipe)
    if facts.get("times"):
        yield from ((None, *read) for read in read_at(few_step(times=tuple(facts["times"])), STEPS, everywhere))
    elif facts.get("steps"):
        own = len(facts["steps"]) - 1
        yield own, replayed(facts["steps"]), True
        base = sampler_of(recipe) if recipe is not None else None
        if base is not None and len(read_at(base, STEPS, everywhere)) > 1:
            yield from ((None, in_steps(base, n), everywhere) for n in STEPS)
    else:
        yield from ((n, ode_of(net, n), True) for n in FIELD)


# -- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entrant:
    """A model that is compared."""

    who: str
    net: Any
    home: Path | None
    key: str

    @property
    def weights(self) -> str:
        """What tells these weights from others: where they are, and when they were written."""
        files = sorted(self.home.rglob("*.safetensors")) if self.home is not None else []
        return f"{self.who} {[(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]}"


def compare_runs(
    runs: Sequence[str | Path], out: Path, eval: str | None = None, progress: Progress | None = None
) -> Finished:
    """Measure the students of finished runs, and their teacher once, at several numbers of evaluations.

    All draw from the same noise, for the same held-out rows. What was measured is kept in `out`, and found there when
    the comparison was interrupted and begins again.

    Args:
        runs: run directories whose products are pipelines of diffusers.
        out: the directory of figures and pictures.
        eval: rows to compare with; by default those on which the runs were examined.
        progress: what is shown meanwhile.

    Returns:
        The readings, which `limbeck.report.write_finished` draws.

    Raises:
        BadData: no run, one that is not finished or has no pipeline, runs of other rows or of several teachers.
    """
    records = {name: read_run(path) for name, path in _names(runs).items()}
    entrants = _entrants(records)
    plain = _plain(entrants[0].net)
    source = _rows(records, plain, eval)
    index = torch.arange(min(len(source), ROWS))
    stand = _Stand.of(plain, [seeded(source, rows, _device()) for rows in index.split(CHUNK)])
    done = _done(out)
    work = [(e, n, draw, made) for e in entrants for n, draw, made in _counted(e, source)]
    found: dict[str, list[Reading]] = {e.who: [] for e in entrants}
    show = progress or Progress()
    with show:
        for e, n, draw, made in show.track("compare", work):
            mark = f"{e.weights} {n} {made} {source.fingerprint} {ROWS}"
            key = hashlib.blake2b(mark.encode(), digest_size=8).hexdigest()
            if key not in done:
                done[key] = stand.read(e.net, draw, out / f"samples-{e.who.replace('/', '-')}-{n}.png", n, made)
                write_atomically(out / KEPT, json.dumps({k: asdict(r) for k, r in done.items()}).encode())
            found[e.who].append(done[key])
            show.show({f"{e.who} at {n}": done[key].fid})
    return Finished(
        {who: sorted(rs, key=lambda r: r.evaluations) for who, rs in found.items()},
        {name: record.recipe for name, record in records.items()}, stand.named, len(index),
        [str(run) for run in runs], eval or "",
    )  # fmt: skip


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _plain(net: Any) -> Denoiser:
    return net.net if isinstance(net, Guided) else net  # type: ignore[return-value]


@dataclass(frozen=True)
class _Stand:
    """What all are measured against: rows with their noise, and the features of the rows' own pictures."""

    plain: Denoiser
    batches: Sequence[Batch]
    features: Callable[[Tensor], Tensor]
    named: str
    truth: Tensor

    @classmethod
    def of(cls, plain: Denoiser, batches: Sequence[Batch]) -> _Stand:
        real = torch.cat([decode(plain, b.x) for b in batches]).cpu()
        features, named = judge_of(real)
        return cls(plain, batches, features, named, features(real))

    def read(self, net: nn.Module, draw: Draw, grid: Path, n: int, made: bool) -> Reading:
        """Measure a model by one sampler, and keep its first pictures."""
        began = perf_counter()
        nets: Any = {"student": net}
        x = torch.cat([decode(self.plain, sampled_by(nets, draw, b)) for b in self.batches]).cpu()
        seconds = (perf_counter() - began) / len(x)
        grid.parent.mkdir(parents=True, exist_ok=True)
        write_grid(x[:SHOWN], grid, SHOWN)
        seen = self.features(x)
        return Reading(n, made, frechet(seen, self.truth), kid_interval(seen, self.truth), seconds, grid.name)


def _names(runs: Sequence[str | Path]) -> dict[str, Path]:
    """Runs by the names of their directories, or by all of their path where two have one name."""
    paths = list(dict.fromkeys(Path(run) for run in runs))
    names = [path.resolve().name for path in paths]
    return {n if names.count(n) == 1 and n != "teacher" else str(p): p for n, p in zip(names, paths, strict=True)}


def _entrants(records: Mapping[str, Any]) -> list[_Entrant]:
    """The teacher, and the product of every run."""
    out, teachers = list[_Entrant](), dict[str, str]()
    for name, record in records.items():
        product = record.path / record.run.get("resolved", {}).get("product", "student")
        if record.status != "done":
            raise BadData(f"{record.path} is {record.status}: finish it with --resume before it is compared")
        if not (product / INDEX).exists():
            raise BadData(f"{record.path} has no pipeline of diffusers to compare: there is no {product / INDEX}")
        out.append(_Entrant(name, open_player(product), product, record.run.get("key", "")))
        # a teacher that is told a second time answers as it did without
        if spec := record.run.get("players", {}).get("teacher", "").removeprefix("map:"):
            teachers[str(Path(spec).resolve()) if Path(spec).is_dir() else spec] = spec
    if len(teachers) > 1:
        raise BadData(
            f"these runs have {len(teachers)} teachers ({', '.join(teachers.values())}): compare those of one"
        )
    for place, spec in teachers.items():
        out = [e for e in out if str(e.home.resolve()) != place]  # type: ignore[union-attr]
        home = Path(spec) if Path(spec).is_dir() else None
        out.insert(0, _Entrant("teacher", open_player(spec, role="teacher"), home, ""))
    shapes = {e.who: _plain(moved(e.net, _device()).eval()).shape for e in out}
    if len(set(shapes.values())) > 1:
        raise BadData(f"these runs draw pictures of several shapes: {shapes}")
    return out


def _rows(records: Mapping[str, Any], net: Denoiser, eval: str | None) -> Source:
    """The rows on which all runs were examined, or those that were given."""
    if eval is not None:
        return read_for(net, open_data(eval))
    marks = {record.run.get("data", {}).get("test") for record in records.values()}
    record = next(iter(records.values()))
    if len(marks) > 1:
        raise BadData(f"{', '.join(map(str, records))} were examined on different rows: give --eval for the same")
    if not (given := record.run.get("rows")):
        raise BadData(f"{record.path / 'run.json'} does not say where its rows are: give --eval")
    if given["eval"] is not None:
        source = read_for(net, open_data(given["eval"]))
    elif given["data"] in beds() and not Path(given["data"]).exists():
        source = read_for(net, load_bed(given["data"]).data(record.run["seed"])["test"])
    else:
        source = hold_out(read_for(net, open_data(given["data"])), HELD_OUT).held
    if source.fingerprint not in marks:
        raise BadData(f"the rows of {record.path} have changed since it was examined: give --eval for others")
    return source


def _counted(entrant: _Entrant, source: Source) -> Iterator[tuple[int, Draw, bool]]:
    """How a model is read, by evaluations; the sampler that it was made for comes first, and no number comes twice."""
    seen = set[int]()
    players = Players({"student": Player("student", frozen(), entrant.net)})
    for n, draw, made in _samplers(entrant.net, entrant.home, entrant.key):
        count = n or evaluations(players, {"test": source}, draw)  # type: ignore[arg-type]
        if count not in seen:
            seen.add(count)
            yield count, draw, made


def _done(out: Path) -> dict[str, Reading]:
    """What an earlier comparison in the same place has measured."""
    if not (out / KEPT).exists():
        return {}
    try:
        held = json.loads((out / KEPT).read_text(encoding="utf-8"))
        return {key: Reading(**{**r, "kid": Interval(*r["kid"])}) for key, r in held.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadValue(f"{out / KEPT} is not what a comparison writes; choose another --out ({error})") from None
