"""Fewer rows than there are."""

from __future__ import annotations

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.transcript import take
from limbeck.players import Players

__all__ = ["every_nth"]


@part
def every_nth(players: Players, batch: Batch, *, n: int = 1) -> Batch:
    """Keep one row in n, the first of every n.

    Args:
        players: not asked.
        batch: the rows.
        n: how many there are for one that is kept.

    Raises:
        BadValue: n below 1.

    Example:
        >>> import torch
        >>> every_nth(n=2)(None, Batch({"x": torch.arange(5)})).x.tolist()
        [0, 2, 4]
    """
    if n < 1:
        raise BadValue(f"every_nth needs n >= 1, got {n}")
    return take(batch, range(0, batch.size, n))
