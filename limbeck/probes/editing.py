"""What an edit cost and whether it came to what was wanted; edited rows are what a *make* stage made.

A row holds the edited datum in x, the one that was given in `real`, its class in y and the class wanted in `target`.

Shapes: N rows; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.data import Source
from limbeck.part import part
from limbeck.players import Players
from limbeck.probes.distribution import energy_gap
from limbeck.probes.rows import first_rows

__all__ = ["class_distance", "displacement", "inversion_error", "target_accuracy"]


def _root(gap: Tensor) -> float:
    return float(gap.double().square().flatten(1).sum(1).mean().sqrt())


@part
def displacement(players: Players, data: Mapping[str, Source], *, edited: str = "edited", rows: int = 10_000) -> float:
    """How far edits moved the data, root mean square: the cost of transport, or the error of a way there and back.

    sqrt(mean |x - real|^2)

    Args:
        players: not asked.
        data: the edited rows.
        edited: their name.
        rows: how many, at most.

    Returns:
        The distance, in units of the data.

    Raises:
        UnknownName: the rows have no column `real`.

    Source: Kulikov et al., arXiv:2412.08629.
    """
    batch = first_rows(players, data, rows, edited)
    return _root(batch.x - batch.real)


@part
def inversion_error(
    players: Players, data: Mapping[str, Source], *, edited: str = "edited", rows: int = 1_000
) -> float:
    """How far the noise that an inversion found is from that of the exact flow, root mean square.

    sqrt(mean |noise - Phi(real, 0 -> 1)|^2)

    Args:
        players: `oracle` answers "flow_map" on columns x, t, s (and y).
        data: rows with a column `noise`.
        edited: their name.
        rows: how many, at most.

    Returns:
        The distance, in units of the noise.

    Raises:
        UnknownName: the rows have no column `noise`, or there is no player `oracle`.

    Source: Wang et al., arXiv:2411.04746; the exact flow takes the place of a reconstruction.
    """
    batch = first_rows(players, data, rows, edited)
    level = batch.x.new_zeros(batch.size)
    exact = players.oracle(batch.with_(x=batch.real, t=level, s=level + 1), "flow_map")
    return _root(batch.noise - exact)


@part
def class_distance(
    players: Players, data: Mapping[str, Source], *, edited: str = "edited", rows: int = 10_000
) -> float:
    """Energy distance between edits and data of the class wanted, averaged over classes.

    mean_c D(x with target c, test data with y = c)

    Args:
        players: not asked.
        data: the edited rows, and the test split with columns x and y.
        edited: the name of the edited rows.
        rows: how many of either, at most.

    Returns:
        At least 0.

    Raises:
        UnknownName: the rows have no column `target`, or the test split none y.

    Source: Székely and Rizzo, "Energy statistics", 2013.
    """
    made, real = (first_rows(players, data, rows, split) for split in (edited, "test"))
    gaps = [
        energy_gap(*(b.x[label == c].flatten(1).double() for b, label in ((made, made.target), (real, real.y))))
        for c in made.target.unique()
    ]
    return sum(gaps) / len(gaps)


@part(higher=True)
def target_accuracy(
    players: Players, data: Mapping[str, Source], *, edited: str = "edited", rows: int = 10_000
) -> float:
    """The share of edits that are likeliest under the class wanted.

    mean [argmax_c p(x | c) = target]

    Args:
        players: `oracle` answers "log_density" on columns x, t, y, and has `classes`.
        data: the edited rows.
        edited: their name.
        rows: how many, at most.

    Returns:
        In [0, 1].

    Raises:
        UnknownName: the rows have no column `target`, or there is no player `oracle`.
    """
    batch = first_rows(players, data, rows, edited)
    level = batch.x.new_zeros(batch.size)
    asked = [batch.with_(t=level, y=torch.full_like(batch.target, c)) for c in range(players.oracle.classes)]
    log_BC = torch.stack([players.oracle(seen, "log_density") for seen in asked], 1)
    return float((log_BC.argmax(1) == batch.target).double().mean())
