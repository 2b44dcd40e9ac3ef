"""THE loop: stage > phase > step > sync > log > checkpoint. Every recipe is run by it and by nothing else.

It guarantees: a phase changes exactly the players it says it learns; a loss does not depend on how its batch is split
over micro-batches and processes; a resumed run ends bit-identical to one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from limbeck.batch import Batch, Moment
from limbeck.checkpoint import load_latest, save_checkpoint
from limbeck.data import Source, batch_of, rows_of_step
from limbeck.errors import BadData, BadValue, unknown
from limbeck.making import make
from limbeck.part import Expr, Part
from limbeck.players import Players, build, moved
from limbeck.processes import Interrupt, anywhere, share, sum_counts
from limbeck.progress import Progress
from limbeck.recipe import Learn, Make, Measure, Phase, Recipe, Repeat, Solve, Stage, Sub, walk
from limbeck.rng import Each, Rng, apart, numbered, seed_torch
from limbeck.run import Run
from limbeck.shard import mesh_of, rebuilt, whole
from limbeck.step import Guard, Updates
from limbeck.trackers import track

__all__ = ["Loop", "Options"]


@dataclass(frozen=True)
class Options:
    """How a recipe is run, as against what it is.

    Args:
        seed: the root of every random number; of several runs side by side, theirs (see `limbeck.stack`).
        micro_batch: rows at a time in a process; 0 for all; halved when memory runs out.
        eval_every: steps between evaluations of `probes`; 0 for never.
        patience: evaluations without improvement of the first probe after which a stage ends, with the best weights
            it had; 0 for no early stop.
        probes: name to probe part, evaluated while learning.
        checkpoint_seconds: time between checkpoints.
        max_seconds: time after which the run stops, resumable; 0 for no limit.
        max_steps: steps of each stage, and rounds of each repeat, at most; 0 for no limit (a dry run takes one).
        shard: cut the weights of every player into shares over the processes (see `limbeck.shard`).
    """

    seed: int | Each = 0
    micro_batch: int = 0
    eval_every: int = 0
    patience: int = 0
    probes: Mapping[str, Part] = field(default_factory=dict)
    checkpoint_seconds: float = 30.0
    max_seconds: float = 0.0
    max_steps: int = 0
    shard: bool = False


@dataclass(eq=False)
class Loop:
    """One execution of a recipe.

    Args:
        recipe: what is run.
        sources: the nets of the given players.
        data: the splits, by name; *make* stages add to them.
        options: how it is run.
        run: where it leaves its traces.
        accelerator: processes, device and precision; a plain one by default.
        progress: what is shown while it runs; nothing by default.

    Raises:
        BadValue: a given player or split is missing.
        UserError, RunError: as the parts, players and the run directory raise them.
    """

    recipe: Recipe
    sources: Mapping[str, nn.Module]
    data: dict[str, Source]
    options: Options = Options()
    run: Run = field(default_factory=lambda: Run(None, {}))
    accelerator: Accelerator = field(default_factory=lambda: Accelerator(cpu=not torch.cuda.is_available()))
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.players = self._enliven()
        self.results: dict[str, float] = {}
        self.done: list[str] = []
        self.place: tuple[str, int] = ("", 0)
        self.pending: dict[str, Any] = {}
        self.best = [math.inf, 0.0]
        self.kept: dict[str, dict[str, Tensor]] = {}
        self.updates = Updates(self.players, self.accelerator, self.progress, self.options.micro_batch)
        self.saved = 0
        self.interrupt = Interrupt(self.options.max_seconds)

    def _enliven(self) -> Players:
        seed_torch(self.options.seed, "build")
        first = next(iter(self.data.values()))
        batch = batch_of(first, torch.arange(min(2, len(first)))).to(self.device)
        roles = self.recipe.players
        nets = {name: moved(net, self.device) for name, net in self.sources.items() if name in roles}
        players = build(roles, nets, batch)
        fresh = {name for stage in walk(self.recipe.stages) for name in getattr(stage, "fresh", ())}
        for name, player in players.items():
            if player.module is not None:
                moved(player.module, self.device)
                if name in fresh:
                    player.initial = _snapshot(player.module)
                if player.role.optimizer is not None:
                    player.wrapped = self.accelerator.prepare_model(player.module, evaluation_mode=True)
        if self.options.shard:
            self._split(players)
        return players

    def _split(self, players: Players) -> None:
        """Cut every player's weights into shares."""
        if self.accelerator.num_processes == 1:
            raise BadValue("sharding needs several processes: start with `accelerate launch` or `torchrun`")
        if any(isinstance(stage, Sub) for stage in walk(self.recipe.stages)):
            raise BadValue(f"recipe {self.recipe.key} sweeps over copies of its players, which cannot be sharded")
        for stage in walk(self.recipe.stages):
            if self.options.micro_batch and getattr(stage, "batch_size", 0) % self.accelerator.num_processes:
                raise BadValue(
                    f"stage {stage.name}: the processes do not share its batch evenly, so that their numbers of "
                    "micro-batches differ; change batch_size, or leave out --micro-batch"
                )
        mesh = mesh_of(self.device, self.accelerator.num_processes)
        for player in players.values():
            player.split(mesh, torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else None)

    def gather(self) -> Players:
        """Make sharded players whole again; all processes must call it, and only the first gets their weights.

        Returns:
            The players, as a single process would have them.
        """
        for player in self.players.values():
            if player.bones is not None and player.module is not None:
                weights = whole(player.module.state_dict(), self.accelerator.is_main_process)
                if self.accelerator.is_main_process:
                    player.mend(rebuilt(player.bones, weights))
        return self.players

    @property
    def device(self) -> torch.device:
        """Where the players live."""
        return self.accelerator.device

    # -- stages -------------------------------------------------------------------------------------------------------

    def execute(self) -> Players:
        """Run every stage, from the last checkpoint if there is one.

        Returns:
            The players as they ended.

        Raises:
            KeyboardInterrupt: it was interrupted; a checkpoint of the last complete step was written.
        """
        self.started = self.checked = time.monotonic()
        self._resume()
        with self.interrupt, self.progress:
            for stage in self.recipe.stages:
                self._stage(stage, stage.name)
        return self.players

    def _stage(self, stage: Stage, path: str) -> None:
        if isinstance(stage, Repeat):
            self._repeat(stage, path)
        elif isinstance(stage, Make):
            self._make(stage, path)
            if not self.pending:  # what is pending belongs to a later stage, whose checkpoint must stay the newest
                self._checkpoint(path, 0)
        elif path not in self.done:
            runs: dict[type, Callable[..., None]] = {
                Learn: self._learn, Solve: self._solve, Measure: self._measure, Sub: self._sub
            }  # fmt: skip
            runs[type(stage)](stage, path)
            self.done.append(path)
            self._checkpoint(path, 0)

    def _repeat(self, stage: Repeat, path: str) -> None:
        for n in range(self._steps(stage.times)):
            for inner in stage.stages:
                self._stage(inner, f"{path}.{n + 1}.{inner.name}")
            if f"{path}.{n + 1}" not in self.done:
                self._end_round(stage, f"{path}.{n + 1}")
            if self.results.get(f"{path}.{n + 1}/until"):
                break

    def _end_round(self, stage: Repeat, mark: str) -> None:
        """Carry weights over to the next round, and decide whether there is one."""
        for to, source in stage.carry.items():
            module = self.players[source].module
            assert module is not None
            self.players[to].load(module.state_dict())
        if stage.until is not None:
            self.results[f"{mark}/until"] = self.probe({"until": stage.until})["until"]
        self.done.append(mark)

    def _make(self, stage: Make, path: str) -> None:
        self.data[stage.into] = make(stage, self, path)

    def _solve(self, stage: Solve, path: str) -> None:
        source = self.source(stage.data, path)
        start, state = self._begin(path, {})
        for step in self.progress.track(path, range(start, self._steps(stage.steps)), start=start):
            at = Moment(step, stage.steps)
            rows = torch.arange(len(source))
            if stage.batch_size:
                rows = rows_of_step(len(source), step, stage.batch_size, self.options.seed, path)
            batch = self._batch(source, rows, (self.options.seed, path, step), at, slice(0, len(rows)))
            self.players.turn(path, stage.learns)
            with Guard([p for p in self.players.values() if p.name not in stage.learns]):
                state, metrics = stage.step(self.players, batch, state)
            for name in stage.learns:
                self.players[name].changed = True
            self._log(path, step, {k: float(v) for k, v in metrics.items()})
            self._after(path, step + 1, partial(dict, state))

    def _measure(self, stage: Measure, path: str) -> None:
        figures = self.probe(stage.probes)
        self.results |= {f"{path}/{k}": v for k, v in figures.items()}
        self._log(path, 0, figures)

    def _sub(self, stage: Sub, path: str) -> None:
        from limbeck.sweep import sweep  # a sweep runs loops: the import cannot be at the top

        self.data[stage.into] = sweep(stage, self, path)

    def _learn(self, stage: Learn, path: str) -> None:
        self._check(stage)
        source = self.source(stage.data, path)
        steps = stage.steps or math.ceil(stage.epochs * len(source) / stage.batch_size)
        learners = sorted({name for phase in stage.phases for name in phase.learns})
        start, state = self._begin(path, {}, stage.fresh)
        self.updates.begin(learners, state)
        for step in self.progress.track(path, range(start, self._steps(steps)), start=start):
            at = Moment(step, steps)
            logged = self._step(stage, path, source, at)
            self._follow(step)
            stop = self._evaluate(learners, step, logged)
            self._log(path, step, logged)
            if stop:
                break
            self._after(path, step + 1, self.updates.state)
        for name, weights in self.kept.items():
            self.players[name].load(weights)
        self.kept = {}

    def _check(self, stage: Learn) -> None:
        """Refuse to split a batch whose rows a part couples, and numbers of a type that a part does not work in."""
        split = self.accelerator.num_processes > 1 or 0 < self.options.micro_batch < stage.batch_size
        mixed = self.accelerator.mixed_precision == "bf16"
        for phase in stage.phases:
            where = f"phase {stage.name}.{phase.name}"
            learners = [self.players[name] for name in phase.learns]
            pairs = [pair for who in learners for pair in zip(who.params, who.trainable, strict=True)]
            kinds = {"bfloat16"} if mixed else {str(p.dtype)[6:] for p, learns in pairs if learns}
            for leaf in phase.loss.leaves():
                if split and leaf.spec.coupled:
                    raise BadValue(
                        f"part {leaf.spec.name} of {where} couples rows: use one process and no --micro-batch"
                    )
                if odd := kinds - set(leaf.spec.dtypes):
                    able = ", ".join(leaf.spec.dtypes)
                    raise BadValue(f"part {leaf.spec.name} of {where} works in {able}, not in {min(odd)}")

    # -- one step -----------------------------------------------------------------------------------------------------

    def _step(self, stage: Learn, path: str, source: Source, at: Moment) -> dict[str, float]:
        logged: dict[str, float] = {}
        made: dict[tuple[Expr | None, int], Batch] = {}
        most = max(phase.times for phase in stage.phases)
        for phase in stage.phases:
            if at.step % phase.every:
                continue
            for k in range(phase.times):
                if (phase.batch, k) not in made:
                    rows = rows_of_step(len(source), at.step * most + k, stage.batch_size, self.options.seed, path)
                    key = (self.options.seed, path, at.step, k, phase.name)
                    here = share(len(rows), self.accelerator)
                    made[phase.batch, k] = self._states(phase, self._batch(source, rows, key, at, here))
                states = made[phase.batch, k]
                batch = replace(states, rng=states.rng.fold("loss", phase.name), memo=dict(states.memo))
                seed_torch(*batch.rng.key, self.accelerator.process_index)
                logged |= self.updates(phase, batch, stage.clip)
                states.memo.update(self._shared(batch))
        return logged

    def _batch(self, source: Source, rows: Tensor, key: tuple[Any, ...], at: Moment, here: slice) -> Batch:
        """The rows `here` of a global batch."""
        rng = Rng(key, numbered(len(rows), len(apart(key)))[here])
        return Batch({**source.take(rows[here]), "index": rows[here]}, rng, at).to(self.device)

    def _states(self, phase: Phase, batch: Batch) -> Batch:
        """The states of an update: what the phase's batch part makes of rows of data."""
        if phase.batch is not None:
            self.players.turn(f"{phase.name}/states")
            with torch.no_grad():
                batch = phase.batch(self.players, batch)
        counts = sum_counts(batch.count(), self.accelerator)
        if not counts["tokens"]:
            raise BadData(f"phase {phase.name!r} got a batch without target tokens: do the rows hold prompts only?")
        seats = len(apart((self.options.seed,)))  # runs side by side each have the mean over their own rows
        return replace(batch, counts={name: n / seats for name, n in counts.items()})

    def _shared(self, batch: Batch) -> dict[Any, Any]:
        """The answers on a batch that the next phase may share: those of players that never change."""
        still = {p.name for p in self.players.values() if p.role.given and p.role.optimizer is None}
        return {name: answer for name, answer in batch.memo.items() if name in still and not _grown(answer)}

    # -- around the steps ---------------------------------------------------------------------------------------------

    def _begin(self, path: str, state: Any, fresh: tuple[str, ...] = ()) -> tuple[int, Any]:
        """Where a stage starts: at its beginning, or where the checkpoint left it."""
        if self.place[0] == path and path in self.pending:
            return self.place[1], self.pending.pop(path)
        self.best, self.kept = [math.inf, 0.0], {}
        for name in fresh:
            initial = self.players[name].initial
            assert initial is not None
            self.players[name].load(initial)
        return 0, state

    def _follow(self, step: int) -> None:
        for player in self.players.values():
            if player.role.every and (step + 1) % player.role.every == 0:
                player.follow(self.players[player.role.of[0]])

    def probe(self, probes: Mapping[str, Part]) -> dict[str, float]:
        """Evaluate probes on the players as they stand."""
        self.players.turn("probe")
        with torch.no_grad():
            return {name: float(probe(self.players, self.data)) for name, probe in probes.items()}

    def _evaluate(self, learners: list[str], step: int, logged: dict[str, float]) -> bool:
        """Evaluate when it is time, and keep the best weights; returns whether the stage should stop early."""
        every = self.options.eval_every
        if not every or (step + 1) % every:
            return False
        figures = self.probe(self.options.probes)
        logged |= {f"eval/{k}": v for k, v in figures.items()}
        name, probe = next(iter(self.options.probes.items()))
        value = -figures[name] if probe.spec.higher else figures[name]
        better = value < self.best[0]
        self.best = [value, 0.0] if better else [self.best[0], self.best[1] + 1]
        if better and self.options.patience:
            self.kept = {n: _snapshot(self.players[n].module) for n in learners}
        return 0 < self.options.patience <= self.best[1]

    def _log(self, path: str, step: int, figures: Mapping[str, float]) -> None:
        row = {"stage": path, "step": step, "time": round(time.monotonic() - self.started, 3), **figures}
        self.run.log(row)
        self.progress.show(figures)
        track(self.accelerator, path, step, figures)

    def _steps(self, steps: int) -> int:
        return min(steps, self.options.max_steps) if self.options.max_steps else steps

    def source(self, name: str, path: str) -> Source:
        """The data of a name.

        Args:
            name: a split, or what an earlier stage made.
            path: the stage that asks.

        Raises:
            UnknownName: there is none.
        """
        if name not in self.data:
            raise unknown("data", name, self.data, where=f"stage {path}")
        return self.data[name]

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _after(self, path: str, step: int, state: Callable[[], Any]) -> None:
        """After a step: stop if asked to, and write a checkpoint if it is time."""
        due = self.run.path is not None and time.monotonic() - self.checked > self.options.checkpoint_seconds
        asked = anywhere(self.accelerator, stop=self.interrupt.asked, due=due)
        if asked["stop"] or asked["due"]:
            self._checkpoint(path, step, state())
        if asked["stop"]:
            raise KeyboardInterrupt(f"stopped in stage {path} after step {step}")

    def _checkpoint(self, path: str, step: int, state: Any = None) -> None:
        self.checked = time.monotonic()
        self.saved += 1
        if self.run.path is None or not (self.accelerator.is_main_process or self.options.shard):
            return
        kept = {n: p for n, p in self.players.items() if p.changed and p.module is not None}
        content = {
            "path": path, "step": step, "state": state, "done": self.done, "results": self.results, "best": self.best,
            "kept": self.kept, "logged": self.run.logged(), "wants": {n: p.wants for n, p in self.players.items()},
            "players": {n: dict(p.module.state_dict()) for n, p in kept.items()},  # type: ignore[union-attr]
        }  # fmt: skip
        content = whole(content, keep=self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            save_checkpoint(self.run.path / "checkpoints", self.saved, content)

    def _resume(self) -> None:
        found = load_latest(self.run.path / "checkpoints") if self.run.path is not None else None
        if found is None:
            self.run.rewind(0)
            return
        self.saved, content = found
        self.place = content["path"], content["step"]
        self.done, self.results = content["done"], content["results"]
        self.best, self.kept = content["best"], content["kept"]
        if content["state"] is not None:
            self.pending[content["path"]] = content["state"]
        for name, weights in content["players"].items():
            self.players[name].load(weights)
        for name, wants in content["wants"].items():
            self.players[name].wants = wants
        self.run.rewind(content["logged"])


def _snapshot(net: nn.Module | None) -> dict[str, Tensor]:
    """The weights and buffers of a net as they are now."""
    assert net is not None
    return {k: t.detach().clone() for k, t in net.state_dict().items()}


def _grown(answer: tuple[str, dict[str, Any]]) -> bool:
    """Whether an answer hangs on a graph."""
    return any(isinstance(v, Tensor) and v.requires_grad for v in answer[1].values())
