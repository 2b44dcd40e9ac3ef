"""Examinations of fields and generators that are nets of one's own: each draws a sample for every held-out row.

Shapes: N rows, D coordinates of a datum.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.cost import measure_cost
from limbeck.data import Source, batch_of
from limbeck.errors import BadData
from limbeck.evaluate import Examination, Quality, figures
from limbeck.part import Expr
from limbeck.parts.solver import even, ode_sample
from limbeck.players import Player, Players
from limbeck.probes.distribution import energy_gap
from limbeck.probes.frechet import kid_interval
from limbeck.recipe import Recipe
from limbeck.rng import Rng
from limbeck.roles import frozen
from limbeck.samplers import TEACHER_STEPS, sampler_of

__all__ = ["drawn_by", "examine_fields"]

ROWS, CHUNK = 400, 64
TEACHER = ode_sample(times=even(TEACHER_STEPS))


def drawn_by(recipe: Recipe) -> Expr | None:
    """How the student of a recipe is sampled; None where it draws nothing.

    Example:
        >>> from limbeck.index import load
        >>> drawn_by(load("flow-matching")).spec.name, drawn_by(load("kd"))
        ('ode_sample', None)
    """
    if recipe.product != "student":
        return None
    probes = {} if recipe.claim is None else recipe.claim.probes
    draws = any(isinstance(p.children().get("draw"), Expr) for p in probes.values())
    return sampler_of(recipe) or recipe.sampler or (ode_sample() if draws else None)


def examine_fields(
    nets: Mapping[str, Any], source: Source, draw: Expr, disk: Mapping[str, Path] | None = None,
    others: Mapping[str, nn.Module] | None = None,
) -> Examination:  # fmt: skip
    """Examine nets on held-out rows: each draws a datum for every row, with the row's other columns and its noise.

    Args:
        nets: who ("teacher", "before", "after") to net, on one device and in evaluation mode.
        source: the rows, with data in x; the first 400 are used.
        draw: the student's sampler; a teacher is solved as a field, in 50 steps.
        disk: who to where it is saved.
        others: further players that the sampler asks.

    Returns:
        Energy and kernel distances to the held-out rows, and costs.

    Raises:
        BadData: fewer than two rows.
    """
    if len(source) < 2:
        raise BadData("samples are compared with two held-out rows at least")
    device = next((p.device for net in nets.values() for p in net.parameters()), torch.device("cpu"))
    index = torch.arange(min(len(source), ROWS))
    batches = [Batch(dict(batch_of(source, i)), rng=Rng(("examined",), i)).to(device) for i in index.split(CHUNK)]
    real = _flat([b.x for b in batches])
    drawn, costs = {}, {}
    for who, net in nets.items():
        ask = partial(_draw, net, TEACHER if who == "teacher" else draw, others or {})
        drawn[who] = _flat([ask(b) for b in batches])
        costs[who] = measure_cost(net, partial(ask, batches[0]), batches[0].size, path=(disk or {}).get(who), repeats=1)
    gaps = figures("energy distance", {w: energy_gap(x, real) for w, x in drawn.items()}, higher_is_better=False)
    kernel = Quality("kernel distance", False, {w: kid_interval(x, real) for w, x in drawn.items()}, n=len(index))
    return Examination(qualities=[gaps, kernel], costs=costs)


def _flat(chunks: list[Tensor]) -> Tensor:
    return torch.cat(chunks).flatten(1).double().cpu()


@torch.no_grad()
def _draw(net: nn.Module, sampler: Expr, others: Mapping[str, nn.Module], batch: Batch) -> Tensor:
    players = Players({name: Player(name, frozen(), module) for name, module in {**others, "student": net}.items()})
    players.turn("probe")
    found: Tensor = sampler(players, batch)  # type: ignore[operator]
    return found
