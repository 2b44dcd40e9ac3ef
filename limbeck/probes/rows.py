"""Rows on which players are measured, where the players are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.players import Players
from limbeck.rng import Rng

__all__ = ["first_rows", "placed"]


def placed(players: Players, source: Source, index: Tensor) -> Batch:
    """Rows of a source on the device of the players' weights, each with noise of its own.

    Args:
        players: the first with weights says where; with none, rows stay where they are.
        source: what the rows are taken from.
        index: (N,) int64, which rows.

    Returns:
        The rows; the noise of a row depends on its index alone.

    Example:
        >>> from limbeck.data import Table
        >>> placed(Players({}), Table({"x": torch.arange(5)}), torch.tensor([3, 1])).x
        tensor([3, 1])
    """
    where = next((p.device for player in players.values() for p in player.params), index.device)
    return Batch(source.take(index), rng=Rng(("probe",), index)).to(where)


def first_rows(players: Players, data: Mapping[str, Source], rows: int = 0, split: str = "test") -> Batch:
    """The first rows of a split on the device of the players' weights.

    Args:
        players: the first with weights says where.
        data: has the split.
        rows: how many, at most; 0 for all.
        split: its name.

    Returns:
        The rows, each with noise of its own.

    Example:
        >>> from limbeck.data import Table
        >>> first_rows(Players({}), {"test": Table({"x": torch.arange(5)})}, 2).x
        tensor([0, 1])
    """
    source = data[split]
    return placed(players, source, torch.arange(min(rows or len(source), len(source))))
