"""Comparisons: recipes side by side on one bed over paired seeds, as figures that pictures are made from."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limbeck.beds import Bed, load_bed
from limbeck.claim import arm_loop, tried_on, truth
from limbeck.data import Source
from limbeck.errors import BadValue, NotFinite, UnknownName
from limbeck.index import load
from limbeck.override import override
from limbeck.part import Expr, Part
from limbeck.players import Players
from limbeck.probes.distribution import sampled
from limbeck.recipe import Recipe
from limbeck.samplers import read_at, sampler_of, taught_everywhere

__all__ = ["Comparison", "compare"]

DRAWN = 600  # samples of a recipe that are kept to be drawn
STEPS = (1, 2, 4, 8)  # at which a sampler is measured
REFERENCES = {"teacher": "teacher", "before": "student"}  # who to the player of the bed; before: not yet trained


@dataclass(frozen=True, eq=False)
class Comparison(Mapping[str, Mapping[str, Sequence[float]]]):
    """Recipe to probe to one figure a seed, and what is needed to read them.

    Args:
        bed: the key of the bed.
        figures: recipe to probe to one figure a seed, seeds paired by position; not a number where the run became so.
        probes: the measures by name, for what they say and which direction is better; the first decides.
        about: one sentence on the bed.
        settings: recipe to where its size and settings come from, in words.
        seconds: recipe to the seconds of each run, without probes.
        references: "teacher" and "before" (the student before it learns) to probe to one figure a seed.
        samples: recipe to samples (N, 2) of its first run, on beds of points.
        truth: (M, 2) data of the bed, where there are samples.
        curves: who ("teacher", or a recipe that says how it is sampled) to evaluations a sample to the first probe's
            figures, one a seed.
        made: who to the evaluations that it was made for; others are read to see what is lost.

    Example:
        >>> from limbeck.probes.classification import accuracy
        >>> found = Comparison("digits", {"kd": {"accuracy": [0.9]}}, {"accuracy": accuracy()})
        >>> found["kd"]["accuracy"], list(found), found.seeds
        ([0.9], ['kd'], 1)
    """

    bed: str
    figures: Mapping[str, Mapping[str, Sequence[float]]]
    probes: Mapping[str, Part]
    about: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    references: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    samples: Mapping[str, Tensor] = field(default_factory=dict)
    truth: Tensor | None = None
    curves: Mapping[str, Mapping[int, Sequence[float]]] = field(default_factory=dict)
    made: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def __getitem__(self, recipe: str) -> Mapping[str, Sequence[float]]:
        return self.figures[recipe]

    def __iter__(self) -> Iterator[str]:
        return iter(self.figures)

    def __len__(self) -> int:
        return len(self.figures)

    @property
    def seeds(self) -> int:
        """The number of runs of each recipe."""
        return max(len(values) for probes in self.figures.values() for values in probes.values())


@dataclass(frozen=True)
class Entry:
    """A recipe as it runs on the bed: at which size, by which players, and where its settings come from."""

    recipe: Recipe
    seats: Mapping[str, str]
    settings: str


@dataclass(frozen=True)
class Outcome:
    """What one run gave: its figures, its seconds without probes, and samples where the bed draws them."""

    figures: Mapping[str, float]
    seconds: float
    samples: Tensor | None = None
    curve: Mapping[int, float] = field(default_factory=dict)
    made: frozenset[int] = frozenset()


def compare(
    keys: Sequence[str],
    *,
    bed: str,
    seeds: int = 3,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Comparison:
    """Run recipes side by side on one bed and measure them by the bed's probes.

    Each runs at the size and with the settings of the claim that tries it: one on this bed, if there is one. On a seed
    all see the same data and start from the same student, so that seeds are paired.

    Args:
        keys: the recipes.
        bed: the bed.
        seeds: runs of each.
        say: receives a line after each run.

    Returns:
        Recipe to probe to one figure a seed, with all that `limbeck.report.write_comparison` draws.

    Raises:
        UnknownName: no such recipe or bed.
        BadValue: recipes that cannot run on the bed, found before any is run; or no recipe, or no seed.

    Example:
        `compare(["vkd", "feature-mse"], bed="digits_few")["vkd"]["accuracy"]`
    """
    world = load_bed(bed)
    recipes = {key: load(key) for key in keys}
    if not recipes or seeds < 1:
        raise BadValue(f"a comparison needs a recipe and a seed, got {len(recipes)} recipes and {seeds} seeds")
    entries = _entered(recipes, world)
    runs = {k: [_run(entry, k, world, seed, say) for seed in range(seeds)] for k, entry in entries.items()}
    drawn = {key: ran[0].samples for key, ran in runs.items()}
    return Comparison(
        bed,
        {key: {name: [run.figures[name] for run in ran] for name in world.probes} for key, ran in runs.items()},
        world.probes,
        world.about,
        {key: entry.settings for key, entry in entries.items()},
        {key: [run.seconds for run in ran] for key, ran in runs.items()},
        _references(world, seeds),
        {key: samples for key, samples in drawn.items() if samples is not None},
        _points(world.data(0)["test"]) if any(s is not None for s in drawn.values()) else None,
        *_curves(world, seeds, {key: [run.curve for run in ran] for key, ran in runs.items()},
                 {key: ran[0].made for key, ran in runs.items()}),
    )  # fmt: skip


def _entered(recipes: Mapping[str, Recipe], world: Bed) -> dict[str, Entry]:
    """Every recipe as it will run; each takes one step of every stage first, so that a mistake shows at once."""
    entries: dict[str, Entry] = {}
    refused: dict[str, Exception] = {}
    for key, recipe in recipes.items():
        try:
            entries[key] = _entry(recipe, world)
            _tried(entries[key], world)
        except Exception as error:  # whatever it is, the recipe does not run here
            refused[key] = error
    if refused:
        reasons = "; ".join(f"{key} ({' '.join(str(error).split())})" for key, error in refused.items())
        raise BadValue(f"cannot run on bed {world.key}: {reasons}") from next(iter(refused.values()))
    return entries


def _entry(recipe: Recipe, world: Bed) -> Entry:
    if recipe.sampler is None and (recipe.product != "student" or "student" not in recipe.players):
        raise BadValue("its product is no student, which is what the probes of this bed measure")
    claim, sized, tuned = tried_on(recipe, world.key)
    where = "this bed" if claim.bed == world.key else f"bed {claim.bed}"
    settings = f"as tuned on {where}" if tuned else f"at the size of a claim on {where}, not tuned"
    seats = {role: seat for role, seat in claim.players.items() if seat in world.players}
    return Entry(override(sized, tuned), seats, settings)


def _tried(entry: Entry, world: Bed) -> None:
    """Take one step of every stage; a student that the bed does not give must answer its probes too."""
    if "student" in entry.recipe.players and entry.recipe.players["student"].given:
        arm_loop(entry.recipe, world, 0, 1, seats=entry.seats).execute()
    else:
        _outcome(entry, world, 0, max_steps=1)


def _outcome(entry: Entry, world: Bed, seed: int, max_steps: int = 0) -> Outcome:
    """Run a recipe and measure it; the players of the bed stand in for those that it does not have."""
    started = time.monotonic()
    loop = arm_loop(entry.recipe, world, seed, max_steps, seats=entry.seats)
    loop.execute()
    seconds, data = time.monotonic() - started, loop.data
    seen = Players({**truth(world, seed), **loop.players})
    seen.turn("probe")
    own = sampler_of(entry.recipe) or entry.recipe.sampler
    draw = own or world.samplers.get("student")
    figures = {name: float(probe(seen, data)) for name, probe in drawn_by(world.probes, draw).items()}
    samples = sampled(seen, data, draw, DRAWN)[0].cpu() if draw else None
    reads = read_at(own, STEPS, taught_everywhere(entry.recipe)) if own and not max_steps else []
    shown = samples if samples is not None and samples.shape[1] == 2 else None
    return Outcome(figures, seconds, shown, *_curve(world, seen, data, reads))


def _curve(
    world: Bed, players: Players, data: Mapping[str, Source], reads: Sequence[tuple[Expr, bool]]
) -> tuple[dict[int, float], frozenset[int]]:
    """The first probe of the bed by evaluations a sample, as far as it draws, and which of them one was made for."""
    name = next(iter(world.probes))
    if "draw" not in world.probes[name].children():
        return {}, frozenset()
    curve: dict[int, float] = {}
    made = set()
    for draw, right in reads:
        asked = evaluations(players, data, draw)
        if asked not in curve:  # the sampler that one was made for comes first
            curve[asked] = float(drawn_by(world.probes, draw)[name](players, data))
            made |= {asked} if right else set()
    return dict(sorted(curve.items())), frozenset(made)


def drawn_by(probes: Mapping[str, Part], draw: Expr | None) -> dict[str, Part]:
    """The probes with a sampler of their own in place of the usual one, where they sample at all.

    Args:
        probes: name to probe.
        draw: the sampler; None leaves them as they are.
    """
    return {n: p.child("draw", draw) if draw and "draw" in p.children() else p for n, p in probes.items()}


def evaluations(players: Players, data: Mapping[str, Source], draw: Expr) -> int:
    """How often one sample asks the player that it asks most: the field, whoever has it.

    Args:
        players: those that the sampler asks.
        data: the test split.
        draw: the sampler.
    """
    asked: Counter[int] = Counter()
    modules = {id(p.module): p.module for p in players.values() if p.module is not None}
    hooks = [m.register_forward_hook(lambda m, *_: asked.update([id(m)])) for m in modules.values()]
    try:
        sampled(players, data, draw, 1)
    finally:
        for hook in hooks:
            hook.remove()
    return max(asked.values(), default=0)


def _curves(
    world: Bed, seeds: int, ran: Mapping[str, Sequence[Mapping[int, float]]], made: Mapping[str, frozenset[int]]
) -> tuple[dict[str, dict[int, list[float]]], dict[str, frozenset[int]]]:
    """Curves of the recipes that have one, and of the teacher beside them; and what each was made for."""
    found = {key: [dict(c) for c in curves] for key, curves in ran.items() if all(curves)}
    if found and "teacher" in world.samplers:
        found["teacher"] = []
        for seed in range(seeds):
            cast = truth(world, seed)
            players = Players({**cast, "student": cast["teacher"]})
            players.turn("probe")
            reads = read_at(world.samplers["teacher"], STEPS, True)
            curve, fits = _curve(world, players, world.data(seed), reads)
            found["teacher"].append(curve)
            made = {**made, "teacher": fits}
    drawn = {key: {n: [curve[n] for curve in curves] for n in curves[0]} for key, curves in found.items()}
    return drawn, {key: made[key] for key in drawn}


def _run(entry: Entry, key: str, world: Bed, seed: int, say: Callable[[str], None]) -> Outcome:
    started = time.monotonic()
    try:
        outcome = _outcome(entry, world, seed)
    except NotFinite as error:
        say(f"{world.key}: {key} seed {seed}: {error}")
        return Outcome(dict.fromkeys(world.probes, math.nan), time.monotonic() - started)
    say(f"{world.key}: {key} seed {seed}: {_shown(outcome.figures)}  ({time.monotonic() - started:.1f} s)")
    return outcome


def _shown(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _references(world: Bed, seeds: int) -> dict[str, dict[str, list[float]]]:
    """The figures of the bed's own players: of the teacher, and of the student before it learns."""
    out: dict[str, dict[str, list[float]]] = {}
    for who, player in REFERENCES.items():
        if player in world.players:
            measured = [_measured(world, player, seed) for seed in range(seeds)]
            out[who] = {name: [figures[name] for figures in measured] for name in measured[0]}
    return out


def _measured(world: Bed, player: str, seed: int) -> dict[str, float]:
    """What the probes give for a player of the bed, but those that ask what it cannot answer."""
    cast = truth(world, seed)
    players, data = Players({**cast, "student": cast[player]}), world.data(seed)
    players.turn("probe")
    figures: dict[str, float] = {}
    for name, probe in world.probes_of(player).items():
        try:
            figures[name] = float(probe(players, data))
        except UnknownName:
            continue
    return figures


def _points(source: Source) -> Tensor:
    x = source.take(torch.arange(len(source)))["x"]
    assert isinstance(x, Tensor)
    return x
