"""Runs abreast: one recipe over several seeds as a single run of stacked nets, where that gives the same.

Whether it does is not argued but tried: two steps are taken both ways, and unless all weights agree the seeds run one
by one. What is never tried: stages other than learning, losses that couple rows, rows of unequal length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.errors import LimbeckError, NotFinite
from limbeck.loop import Loop
from limbeck.players import Player, Players, copied
from limbeck.recipe import Learn, Recipe, walk
from limbeck.rng import Each
from limbeck.stack import Stack, StackedSource

__all__ = ["run_abreast", "stacked"]

TRIED = 2  # steps
AGREE = 1e-5  # of the norm of a weight


def stacked(loops: Sequence[Loop]) -> Loop:
    """Make one loop of several that differ in seed, nets and data alone.

    Args:
        loops: not yet run; their nets are copied.

    Returns:
        A loop whose players answer for all of them.

    Raises:
        RuntimeError, KeyError: their nets or data do not fit together.
    """
    first = loops[0]
    sources = {n: p.module for n, p in first.players.items() if p.role.given and p.module is not None}
    options = replace(first.options, seed=Each(tuple(loop.options.seed for loop in loops)))
    out = Loop(first.recipe, sources, dict(first.data), options)
    out.data = {name: StackedSource([loop.data[name] for loop in loops]) for name in first.data}
    players = {name: _seated([loop.players[name] for loop in loops]) for name in first.players}
    out.players = out.updates.players = Players(players)
    return out


def _seated(players: Sequence[Player]) -> Player:
    """One player for those of one name in several runs."""
    first = players[0]
    made = Player(first.name, first.role, Stack([copied(p) for p in players]), changed=first.changed)
    made.turn("", False)
    return made


def run_abreast(make: Callable[[int, int], Loop], seeds: Sequence[int]) -> list[Loop] | None:
    """Run a recipe over seeds as one run.

    Args:
        make: builds the loop of a seed, with so many steps a stage at most (0 for all).
        seeds: the seeds.

    Returns:
        The loops of the seeds, as if each had been run by itself; None where that is not so, or a run diverged, and
        each must be.
    """
    first = make(seeds[0], 0)
    if len(seeds) < 2 or not _simple(first.recipe, first) or not _agrees(make, seeds):
        return None
    loops = [first, *(make(seed, 0) for seed in seeds[1:])]
    together = stacked(loops)
    try:
        together.execute()
    except NotFinite:
        return None
    _deal(together, loops)
    return loops


def _simple(recipe: Recipe, loop: Loop) -> bool:
    """Whether the recipe is of a kind that may be stacked."""
    stages = list(walk(recipe.stages))
    losses = [phase.loss for stage in stages for phase in getattr(stage, "phases", ())]
    columns = {k: c for source in loop.data.values() for k, c in source.take(torch.arange(1)).items()}
    return (
        all(isinstance(stage, Learn) and not stage.fresh for stage in stages)
        and not any(leaf.spec.coupled for loss in losses for leaf in loss.leaves())
        and all(player.module is not None for player in loop.players.values())
        and "mask" not in columns
        and all(isinstance(column, Tensor) for column in columns.values())
    )


def _deal(together: Loop, loops: Sequence[Loop]) -> None:
    """Give every run its weights."""
    for name, player in together.players.items():
        assert isinstance(player.module, Stack)
        for loop, weights in zip(loops, player.module.apart(), strict=True):
            loop.players[name].load(weights)


def _agrees(make: Callable[[int, int], Loop], seeds: Sequence[int]) -> bool:
    """Whether a few steps taken together end where they end one by one."""
    alone, loops = ([make(seed, TRIED) for seed in seeds] for _ in range(2))
    try:
        together = stacked(loops)
        for loop in (*alone, together):
            loop.execute()
    except (RuntimeError, KeyError, ValueError, *LimbeckError):  # nets that vmap cannot run, or unlike each other
        return False
    _deal(together, loops)
    return all(_near(a.players, b.players) for a, b in zip(alone, loops, strict=True))


def _near(one: Players, other: Players) -> bool:
    weights = ((p.module.state_dict(), other[n].module.state_dict()) for n, p in one.items())  # type: ignore[union-attr]
    return all((w[k] - v[k]).norm() <= AGREE * w[k].norm() for w, v in weights for k in w if w[k].is_floating_point())
