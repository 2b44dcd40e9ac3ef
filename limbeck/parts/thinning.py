"""Fewer rows: what is dear to make of data is not made of every row."""

from __future__ import annotations

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.players import Players

__all__ = ["thinned"]


@part
def thinned(players: Players, batch: Batch, *, every: int = 1) -> Batch:
    """Keep one row in so many, to be piped into what makes rows of them: `thinned(every=10) >> sampled_pairs()`.

    rows 0, k, 2k, ...

    Args:
        players: not asked.
        batch: the rows.
        every: k; 1 keeps all.

    Returns:
        The rows kept, with their own random streams.

    Raises:
        BadValue: every below 1.

    Example:
        >>> import torch
        >>> thinned(every=2)(None, Batch({"x": torch.arange(5)})).x
        tensor([0, 2, 4])
    """
    if every < 1:
        raise BadValue(f"one row in `every` is kept, got every = {every}")
    return batch.rows(slice(None, None, every))
