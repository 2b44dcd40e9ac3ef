"""Recipes: what one paper chose, as frozen data.

A `Recipe` has players (roles), stages and a claim. A stage is one of `Learn` (phases of gradient steps), `Solve` (a
step function: closed forms, bilevel steps), `Make` (data), `Measure` (probes), `Repeat` and `Sub`. The loop runs them;
`limbeck show` prints them; `limbeck.override` changes what a dotted path names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from limbeck.errors import BrokenRecipe, unknown
from limbeck.part import Expr, Part
from limbeck.roles import Role

__all__ = [
    "Arm",
    "Claim",
    "Inequality",
    "Learn",
    "Make",
    "Measure",
    "Phase",
    "Recipe",
    "Repeat",
    "Solve",
    "Stage",
    "Sub",
    "Tune",
    "less",
    "more",
    "within",
]


@dataclass(frozen=True)
class Phase:
    """One update: who learns, on which batch, which loss, how often.

    Args:
        name: its address in overrides and its name in the logs.
        learns: the players that change, and the only ones.
        loss: the loss, an expression of parts.
        batch: a batch part that turns rows of the stage's data into the states of this update; evaluated without
            gradient, and once a step if several phases have the same.
        times: updates of this phase per step.
        every: steps between its turns.
    """

    name: str
    learns: tuple[str, ...]
    loss: Expr
    batch: Expr | None = None
    times: int = 1
    every: int = 1


@dataclass(frozen=True)
class Learn:
    """A stage of gradient steps.

    Args:
        name: its address in overrides and its name in the logs.
        phases: the updates of one step, in order.
        steps: the number of steps; 0 means that `epochs` decides.
        epochs: passes over the data.
        batch_size: rows of one global batch, over all processes and micro-batches.
        data: the split it reads, or the name that an earlier stage gave to its data.
        clip: the largest norm of a player's gradient; 0 for no clipping.
        fresh: players that start this stage from their initial weights.
    """

    name: str
    phases: tuple[Phase, ...]
    steps: int = 0
    epochs: float = 1.0
    batch_size: int = 32
    data: str = "train"
    clip: float = 0.0
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True)
class Solve:
    """A stage whose step is a function: closed forms, bilevel steps, boosting rounds.

    Args:
        name: its address in overrides and its name in the logs.
        step: a part `(players, batch, state)` that returns (state, metrics); it may change the players in `learns`;
            state is a dict of tensors, empty at first, checkpointed by the loop.
        learns: the players that change, and the only ones.
        steps: the number of calls.
        batch_size: rows of a call's batch; 0 gives it the whole data.
        data: the data it reads.
    """

    name: str
    step: Expr
    learns: tuple[str, ...] = ()
    steps: int = 1
    batch_size: int = 0
    data: str = "train"


@dataclass(frozen=True)
class Make:
    """A stage that makes data, journalled chunk by chunk so that no answer is ever asked twice.

    Args:
        name: its address in overrides and its name in the logs.
        rows: a batch part; what it returns are the rows made from a chunk of rows.
        into: the name under which later stages read the result.
        data: the data it reads.
        chunk: rows at a time; 0 for all of them.
    """

    name: str
    rows: Expr
    into: str
    data: str = "train"
    chunk: int = 64


@dataclass(frozen=True)
class Measure:
    """A stage that evaluates probes and keeps the figures.

    Args:
        name: its address in overrides and its name in the logs.
        probes: name to probe part `(players, data)`.
    """

    name: str
    probes: Mapping[str, Part]


@dataclass(frozen=True)
class Repeat:
    """Stages in rounds: 8 -> 4 -> 2 -> 1 steps, reflow, generations, self-improvement.

    Args:
        name: its address in overrides and its name in the logs.
        stages: the stages of one round.
        times: the number of rounds, at most.
        until: a probe `(players, data)`; the rounds end when it is true.
        carry: after each round, the player on the left takes the weights of the player on the right.
    """

    name: str
    stages: tuple[Stage, ...]
    times: int = 1
    until: Part | None = None
    carry: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sub:
    """A sweep of ordinary runs of another recipe, whose figures become data.

    Args:
        name: its address in overrides and its name in the logs.
        recipe: the key of the recipe that is run.
        over: dotted path to the values it takes; the runs are the product of them.
        probes: what is measured at the end of each run.
        into: the name under which later stages read the table of settings and figures.
    """

    name: str
    recipe: str
    over: Mapping[str, tuple[Any, ...]]
    probes: Mapping[str, Part]
    into: str


Stage = Learn | Solve | Make | Measure | Repeat | Sub


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a recipe (this one, if empty) and what is set in it."""

    recipe: str = ""
    set: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inequality:
    """What a claim says of one probe; made by `more`, `less` and `within`.

    Args:
        probe: the name of the probe.
        arm: the arm that should win.
        than: the arm it is compared with; empty for an identity.
        by: the effect size that the mean paired difference must reach; below 0, how much worse the arm may be at most;
            for an identity, the tolerance.
        sign: +1 if more is better, -1 if less is, 0 for an identity on every seed.
    """

    probe: str
    arm: str
    than: str
    by: float
    sign: Literal[-1, 0, 1]

    def __str__(self) -> str:
        if self.sign == 0:
            return f"{self.probe}[{self.arm}] <= {self.by:g} on every seed"
        relation, plus = ">=" if self.sign > 0 else "<=", "+" if (self.sign > 0) == (self.by >= 0) else "-"
        return f"{self.probe}[{self.arm}] {relation} {self.probe}[{self.than}] {plus} {abs(self.by):g}"


def more(probe: str, arm: str, than: str, *, by: float) -> Inequality:
    """Say that an arm's probe exceeds another's by an effect size; below 0, that it is no lower by more than that.

    Example:
        >>> print(more("accuracy", "gkd", "seqkd", by=0.02))
        accuracy[gkd] >= accuracy[seqkd] + 0.02
        >>> print(more("accuracy", "small", "large", by=-0.01))
        accuracy[small] >= accuracy[large] - 0.01
    """
    return Inequality(probe, arm, than, by, 1)


def less(probe: str, arm: str, than: str, *, by: float) -> Inequality:
    """Say that an arm's probe is below another's by an effect size; below 0, that it is no higher by more than that."""
    return Inequality(probe, arm, than, by, -1)


def within(probe: str, arm: str, bound: float) -> Inequality:
    """Say that a probe is no further from 0 than a bound, on either side, on every seed."""
    return Inequality(probe, arm, "", bound, 0)


@dataclass(frozen=True)
class Tune:
    """How every arm of a claim is tuned, with the same number of trials.

    Args:
        probe: the probe that decides, on the validation split and on seeds apart from the verdict's.
        grid: arm to dotted path to values; all arms' grids have the same number of points.
        seeds: how many tuning seeds a trial is averaged over.
    """

    probe: str
    grid: Mapping[str, Mapping[str, tuple[Any, ...]]]
    seeds: int = 1


@dataclass(frozen=True)
class Claim:
    """Inequalities over probes on a bed, with arms, budget, tuning, seeds and a control.

    Args:
        bed: the key of the bed.
        arms: name to arm; every arm gets the same budget.
        probes: name to probe part `(players, data)`.
        says: the inequalities, all of which must hold.
        set: what is set in every arm: the size of the experiment.
        tune: the grid.
        seeds: the number of paired seeds, at least 3.
        players: role to the player of the bed that takes it, where the names differ.
        control: the arm with the key ingredient switched off; put in place of the arm that should win, at least one
            inequality must fail.
        no_control: the reason, where no control exists.
        no_tune: the reason, where there is no grid although arms are compared.
    """

    bed: str
    arms: Mapping[str, Arm]
    probes: Mapping[str, Part]
    says: tuple[Inequality, ...]
    set: Mapping[str, Any] = field(default_factory=dict)
    tune: Tune | None = None
    seeds: int = 3
    players: Mapping[str, str] = field(default_factory=dict)
    control: str = ""
    no_control: str = ""
    no_tune: str = ""

    def __post_init__(self) -> None:
        for said in self.says:
            for name in filter(None, (said.arm, said.than)):
                if name not in self.arms:
                    raise unknown("arm", name, self.arms, where=f"the claim '{said}'")
            if said.probe not in self.probes:
                raise unknown("probe", said.probe, self.probes, where=f"the claim '{said}'")
        if bool(self.control) == bool(self.no_control):
            raise BrokenRecipe("a claim names a control arm, or says in no_control why there is none")
        if self.control and self.control not in self.arms:
            raise unknown("arm", self.control, self.arms, where="control")
        if self.seeds < 3 or not self.says:
            raise BrokenRecipe("a claim says something, over at least 3 seeds")
        if not self.tune and not self.no_tune and any(said.sign for said in self.says):
            raise BrokenRecipe("a claim tunes every arm that it compares, or says in no_tune why it does not")


@dataclass(frozen=True)
class Recipe:
    """What one paper chose.

    Args:
        key: the name of the recipe, of its file (with `_` for `-`) and of its page.
        title: the title of the paper.
        paper: where it is found: "arXiv:..." or a URL.
        family: the folder the recipe lies in.
        kind: method, study, benchmark, diagnostic ...
        learns: what learns, in words.
        teacher: the access it needs: white-box, black-box, self, none.
        players: name to role.
        stages: the stages, in order.
        product: the player or data set that the recipe is run for.
        sampler: how the product is sampled, where it draws: a part `(players, batch)` with hyper-parameter `times`.
        variants: name to overrides: published variants that differ only in numbers or parts.
        deviates: where this recipe departs from the paper or its code, and why; empty if nowhere.
        claim: what is claimed of it; None for baselines, and for recipes of the package until `limbeck.index.load` adds
            it from a file of its own.

    Raises:
        BrokenRecipe: a phase that learns a player without optimiser, or two things of one name.
        UnknownName: a phase that learns a player that the recipe does not have.
    """

    key: str
    title: str
    paper: str
    family: str
    kind: str
    learns: str
    teacher: str
    players: Mapping[str, Role]
    stages: tuple[Stage, ...]
    product: str = "student"
    sampler: Expr | None = None
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    deviates: tuple[str, ...] = ()
    claim: Claim | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        names = [s.name for s in self.stages] + list(self.players)
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise BrokenRecipe(f"recipe {self.key}: the name {twice[0]!r} stands for two things")
        for player, role in self.players.items():
            for of in role.of:
                if of not in self.players:
                    raise unknown("player", of, self.players, where=f"recipe {self.key}, player {player!r}")
        for stage in walk(self.stages):
            for phase in getattr(stage, "phases", ()):
                self._check(stage.name, phase)

    def _check(self, stage: str, phase: Phase) -> None:
        for player in phase.learns:
            if player not in self.players:
                raise unknown("player", player, self.players, where=f"recipe {self.key}, phase {stage}.{phase.name}")
            if self.players[player].optimizer is None:
                raise BrokenRecipe(
                    f"recipe {self.key}: phase {stage}.{phase.name} learns {player!r}, which has no optimiser"
                )


def walk(stages: tuple[Stage, ...]) -> Iterator[Stage]:
    """Go through stages and the stages inside repeats, in order."""
    for stage in stages:
        yield stage
        if isinstance(stage, Repeat):
            yield from walk(stage.stages)
