"""Claims, run afresh: arms on a bed over paired seeds, tuned alike, and a verdict that can be *fails*.

A claim holds if every inequality holds and, with the control in place of the arm that should win, at least one fails.
An inequality holds if the mean paired difference reaches the stated effect size and its one-sided 90% t-bound excludes
zero, or, where an arm is only said to be no worse by more than a margin, the margin. An identity holds on every seed.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student_t

from limbeck.abreast import run_abreast
from limbeck.beds import Bed, load_bed
from limbeck.errors import BadValue, BrokenRecipe, NotFinite, unknown
from limbeck.index import fingerprint, keys, load
from limbeck.loop import Loop, Options
from limbeck.override import flatten, override
from limbeck.players import Player, Players
from limbeck.recipe import Arm, Claim, Inequality, Recipe
from limbeck.roles import frozen

__all__ = ["Verdict", "arm_loop", "judge", "run_arm", "tune", "verify"]

EVIDENCE = Path(__file__).parent / "evidence"
TUNING_SEEDS = 10_000  # tuning runs on seeds from here on, verdicts on seeds below
CONFIDENCE = 0.90

Figures = Mapping[str, Mapping[str, Sequence[float]]]  # arm -> probe -> one number a seed


@dataclass(frozen=True)
class Verdict:
    """What became of one inequality.

    Args:
        says: the inequality in words.
        left: the winning arm's figure, seed by seed.
        right: the other arm's; the tolerance for an identity.
        effect: the mean paired difference in the direction claimed.
        bound: its one-sided 90% lower bound.
        holds: whether the effect reaches what was stated and the bound excludes zero, or the loss that was conceded.
    """

    says: str
    left: tuple[float, ...]
    right: tuple[float, ...]
    effect: float
    bound: float
    holds: bool


def judge(said: Inequality, figures: Figures, arm: str = "") -> Verdict:
    """Judge one inequality on figures.

    d_i = sign (left_i - right_i);  holds iff mean d >= by and mean d - t_{0.90, n-1} s_d / sqrt(n) > min(by, 0)

    Args:
        said: the inequality.
        figures: arm to probe to one number a seed, seeds paired by position.
        arm: the arm to put on the left instead of the claim's own: the control.

    Returns:
        The verdict; figures that are not finite never hold.

    Example:
        >>> from limbeck.recipe import more
        >>> figures = {"a": {"acc": [0.9, 0.8, 0.9]}, "b": {"acc": [0.5, 0.5, 0.6]}}
        >>> judge(more("acc", "a", "b", by=0.2), figures).holds, judge(more("acc", "b", "a", by=0.2), figures).holds
        (True, False)
    """
    left = tuple(figures[arm or said.arm][said.probe])
    if said.sign == 0:
        worst = max(left, key=lambda v: math.inf if math.isnan(v) else abs(v))
        holds = all(abs(v) <= said.by for v in left)
        return Verdict(str(said), left, (said.by,) * len(left), said.by - abs(worst), said.by - abs(worst), holds)
    right = tuple(figures[said.than][said.probe])
    differences = [said.sign * (a - b) for a, b in zip(left, right, strict=True)]
    mean, n = statistics.fmean(differences), len(differences)
    spread = statistics.stdev(differences) if math.isfinite(mean) else math.nan
    bound = mean - float(student_t.ppf(CONFIDENCE, n - 1)) * spread / math.sqrt(n)
    return Verdict(str(said), left, right, mean, bound, mean >= said.by and bound > min(said.by, 0.0))


def arm_recipe(recipe: Recipe, arm: Arm, size: Mapping[str, Any], tuned: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe that an arm runs: its own or another, at the claim's size, then as the arm has it, then as tuned.

    Of the claim's settings, another recipe takes those whose full path it has; its own must fit one and all.
    """
    base, size = recipe, dict(size)
    if arm.recipe:
        base = load(arm.recipe)
        has = flatten(base)
        size = {path: value for path, value in size.items() if path in has}
    return override(override(base, size | dict(arm.set)), tuned or {})


def arm_loop(
    recipe: Recipe, bed: Bed, seed: int, max_steps: int = 0, *, seats: Mapping[str, str] | None = None
) -> Loop:
    """Set a recipe up on a bed, to leave no trace.

    Args:
        recipe: with everything set.
        bed: gives players and data.
        seed: of data, of the nets and of the loop.
        max_steps: steps of each stage at most; 0 for no limit.
        seats: role to the player of the bed that takes it, where the names differ.

    Returns:
        The loop, not yet run.

    Raises:
        UnknownName: the recipe needs a player that the bed does not have.
    """
    needed = [name for name, role in recipe.players.items() if role.given]
    seats = {name: (seats or {}).get(name, name) for name in needed}
    if missing := [name for name in seats.values() if name not in bed.players]:
        raise unknown("player", missing[0], bed.players, where=f"bed {bed.key}, which recipe {recipe.key} needs")
    sources = {name: bed.players[seat](seed) for name, seat in seats.items()}
    return Loop(recipe, sources, dict(bed.data(seed)), Options(seed=seed, max_steps=max_steps))


def run_arm(
    recipe: Recipe, bed: Bed, seeds: Sequence[int], seats: Mapping[str, str] | None = None
) -> list[Loop | NotFinite]:
    """Run a recipe on a bed over seeds; side by side on a GPU, where that pays, and if it gives the same.

    Args:
        recipe: with everything set.
        bed: gives players and data.
        seeds: each of data, of the nets and of the loop.
        seats: role to the player of the bed that takes it, where the names differ.

    Returns:
        For every seed the loop that was run, or how it diverged.

    Raises:
        UnknownName: the recipe needs a player that the bed does not have.
    """
    make = partial(arm_loop, recipe, bed, seats=seats)
    abreast = run_abreast(make, seeds) if torch.cuda.is_available() else None
    return list(abreast or (_executed(make(seed)) for seed in seeds))


def _executed(loop: Loop) -> Loop | NotFinite:
    """A loop that has been run, or how it diverged."""
    try:
        loop.execute()
    except NotFinite as error:
        return error
    return loop


def truth(bed: Bed, seed: int) -> dict[str, Player]:
    """The players of a bed as they come, so that probes find the truth whatever players a recipe has."""
    return {name: Player(name, frozen(), make(seed)) for name, make in bed.players.items()}


class Trial:
    """Runs the arms of one claim and remembers what they gave.

    Args:
        recipe: the recipe whose claim it is.
        claim: the claim.
        say: receives a line after each run.
    """

    def __init__(self, recipe: Recipe, claim: Claim, say: Callable[[str], None]) -> None:
        self.recipe, self.claim, self.say = recipe, claim, say
        self.bed = load_bed(claim.bed)

    def figures(self, name: str, tuned: Mapping[str, Any], seeds: Sequence[int], split: str) -> list[dict[str, float]]:
        """Run one arm over seeds and measure it.

        Args:
            name: the arm.
            tuned: its tuned settings.
            seeds: the seeds.
            split: "test" for verdicts; "valid" for tuning, which never sees the test rows.

        Returns:
            For every seed, probe to figure; not a number where the run itself became so.
        """
        recipe = arm_recipe(self.recipe, self.claim.arms[name], self.claim.set, tuned)
        started = time.monotonic()
        ran = run_arm(recipe, self.bed, seeds, self.claim.players)
        out = [self._measured(run, seed, split) for run, seed in zip(ran, seeds, strict=True)]
        for run, seed, figures in zip(ran, seeds, out, strict=True):
            shown = run if isinstance(run, NotFinite) else "  ".join(f"{k} {v:.4g}" for k, v in figures.items())
            self.say(f"{self.recipe.key}: {name} seed {seed}: {shown}")
        self.say(f"{self.recipe.key}: {name}: {len(ran)} seeds in {time.monotonic() - started:.1f} s")
        return out

    def _measured(self, run: Loop | NotFinite, seed: int, split: str) -> dict[str, float]:
        """The probes on what one run gave."""
        if isinstance(run, NotFinite):
            return dict.fromkeys(self.claim.probes, math.nan)
        players, data = Players({**truth(self.bed, seed), **run.players}), dict(run.data)
        data["test"] = data[split]
        if split != "test":
            data.pop(split, None)
        players.turn("probe")
        return {p: float(probe(players, data)) for p, probe in self.claim.probes.items()}


def points(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """The points of a grid."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def tune(trial: Trial, known: Mapping[str, dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Choose each arm's settings from its grid, on validation rows and seeds apart from the verdict's.

    Args:
        trial: the claim.
        known: arms whose settings were chosen before.

    Returns:
        Arm to dotted path to value.

    Raises:
        BrokenRecipe: the arms' grids have unequal numbers of points.
    """
    rule = trial.claim.tune
    if rule is None:
        return {}
    trials = {name: len(list(points(grid))) for name, grid in rule.grid.items()}
    if len(set(trials.values())) > 1 or set(trials) - set(trial.claim.arms):
        raise BrokenRecipe(f"the arms of a claim are tuned with the same number of trials, got {trials}")
    chosen = dict(known or {})
    for name, grid in rule.grid.items():
        if name in chosen:
            continue
        scores = [(_score(trial, name, point), i) for i, point in enumerate(points(grid))]
        chosen[name] = list(points(grid))[min(scores)[1]]
    return chosen


def _score(trial: Trial, name: str, point: Mapping[str, Any]) -> float:
    """The mean of the deciding probe over the tuning seeds, less being better; not finite is worst."""
    rule = trial.claim.tune
    assert rule is not None
    seeds = range(TUNING_SEEDS, TUNING_SEEDS + rule.seeds)
    mean = statistics.fmean(figures[rule.probe] for figures in trial.figures(name, point, seeds, "valid"))
    higher = trial.claim.probes[rule.probe].spec.higher
    return (-mean if higher else mean) if math.isfinite(mean) else math.inf


def verify(
    key: str, *, seeds: int = 0, seed_offset: int = 0, retune: bool = False, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run a claim afresh.

    Args:
        key: the recipe.
        seeds: the number of paired seeds; the claim's own by default.
        seed_offset: added to every seed; evidence with an offset is never written.
        retune: choose the settings again even if the evidence has them.
        say: receives a line after each run.

    Returns:
        The evidence: status, verdicts with both sides of every inequality for every seed, the control, what was tuned,
        seconds and fingerprint.

    Raises:
        BadValue: the recipe has no claim, or fewer than 3 seeds are asked for.
    """
    recipe = load(key)
    claim = recipe.claim
    if claim is None:
        raise BadValue(f"recipe {key} makes no claim that could be verified")
    n = seeds or claim.seeds
    if n < 3:
        raise BadValue(f"a claim needs at least 3 paired seeds, got {n}")
    trial, started = Trial(recipe, claim, say), time.monotonic()
    tuned = tune(trial, {} if retune else remembered(key, claim))
    tuning = time.monotonic() - started
    over = range(seed_offset, seed_offset + n)
    runs = {name: trial.figures(name, tuned.get(name, {}), over, "test") for name in claim.arms}
    figures = {name: {p: [run[p] for run in ran] for p in claim.probes} for name, ran in runs.items()}
    return {
        "key": key, **conclude(claim, figures), "bed": claim.bed, "seeds": n, "seed_offset": seed_offset,
        "tuned": tuned, "grid": _grid(claim), "figures": figures, "fingerprint": fingerprint(key),
        "seconds": round(time.monotonic() - started - tuning, 1), "seconds_tuning": round(tuning, 1),
    }  # fmt: skip


def conclude(claim: Claim, figures: Figures) -> dict[str, Any]:
    """The status of a claim on figures: every inequality must hold, and not all of them for the control.

    Returns:
        `status` ("holds" or "fails"), `verdicts`, and `control` (the verdicts with the control in place; None where
        the claim has none).
    """
    verdicts = [judge(said, figures) for said in claim.says]
    main = claim.says[0].arm
    control = None
    if claim.control:
        control = [judge(said, figures, claim.control if said.arm == main else "") for said in claim.says]
    lost = control is None or not all(v.holds for v in control)
    return {
        "status": "holds" if all(v.holds for v in verdicts) and lost else "fails",
        "verdicts": [vars(v) for v in verdicts],
        "control": None if control is None else [vars(v) for v in control],
    }


def tried_on(recipe: Recipe, bed: str = "") -> tuple[Claim, Recipe, dict[str, Any]]:
    """Find where a recipe is tried: in its own claim, or in the first claim that has it as an arm.

    Args:
        recipe: any recipe, a baseline too.
        bed: the key of a bed; a claim on it comes before those on others.

    Returns:
        The claim; the recipe at that claim's size, with the arm's settings; and what was tuned for that arm.

    Raises:
        BrokenRecipe: no claim runs it, so that nobody can tell on which bed it works.
    """
    found: list[tuple[Claim, Recipe, dict[str, Any]]] = []
    for other in itertools.chain([recipe], (load(key) for key in keys() if key != recipe.key)):
        arms = other.claim.arms if other.claim is not None else {}
        name = next((n for n, arm in arms.items() if (arm.recipe or other.key) == recipe.key), None)
        if name is not None and other.claim is not None:
            sized = arm_recipe(other, arms[name], other.claim.set)
            found.append((other.claim, sized, remembered(other.key, other.claim).get(name, {})))
            if not bed or other.claim.bed == bed:  # none can come before it
                return found[-1]
    if not found:
        raise BrokenRecipe(f"no claim runs {recipe.key}: give it a claim, or make it an arm of one")
    return found[0]


def _grid(claim: Claim) -> Any:
    """The grid as JSON has it, to tell whether what was tuned still stands."""
    return json.loads(json.dumps(claim.tune.grid, default=repr)) if claim.tune else None


def remembered(key: str, claim: Claim) -> dict[str, dict[str, Any]]:
    """What was tuned before, for the arms whose grids are still the same."""
    path, now = EVIDENCE / f"{key}.json", _grid(claim) or {}
    old = json.loads(path.read_text()) if now and path.exists() else {"tuned": {}}
    return {arm: chosen for arm, chosen in old["tuned"].items() if now.get(arm) == old["grid"].get(arm)}


def write_evidence(evidence: Mapping[str, Any]) -> Path:
    """Write evidence where `limbeck ls` finds it.

    Raises:
        BadValue: it was made with a seed offset.
    """
    if evidence["seed_offset"]:
        raise BadValue("evidence made with --seed-offset is never written: seeds are not chosen")
    path = EVIDENCE / f"{evidence['key']}.json"
    path.write_text(json.dumps(evidence, indent=1, sort_keys=True) + "\n")
    return path
