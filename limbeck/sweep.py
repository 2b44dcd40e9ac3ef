"""Sweeps: ordinary runs of a recipe over a grid, whose figures become a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from limbeck.claim import points
from limbeck.data import Table
from limbeck.index import load
from limbeck.override import override
from limbeck.players import copied
from limbeck.recipe import Sub

if TYPE_CHECKING:
    from limbeck.loop import Loop

__all__ = ["sweep"]


def sweep(stage: Sub, parent: Loop, path: str) -> Table:
    """Run a recipe at every point of a grid, from where the parent's players stand.

    Args:
        stage: the recipe, the grid and what is measured.
        parent: the run that asks; its players are copied, never changed.
        path: the stage's path; finished points are journalled under it.

    Returns:
        A row a point: its number `point` and one column a probe.
    """
    journal = parent.run.journal(path)
    rows: list[dict[str, Any]] = []
    for i, point in enumerate(points(stage.over)):
        done: dict[str, Any] | None = journal.read(i)
        if done is None:
            nets = {n: copied(p) for n, p in parent.players.items() if p.module is not None}
            child = type(parent)(override(load(stage.recipe), point), nets, dict(parent.data), parent.options)
            child.execute()
            figures = child.probe(stage.probes)
            done = {"point": torch.tensor([i]), **{k: torch.tensor([v]) for k, v in figures.items()}}
            journal.write(i, done)
        rows.append(done)
    return Table({name: torch.cat([row[name] for row in rows]) for name in rows[0]})
