"""Data sources: rows that can be taken by index, in any order, again and again.

Order is not state: the rows of step s are a function of (seed, stage, s), so a run resumed in the middle of an epoch
reads what the uninterrupted one would have read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from limbeck.batch import Batch, Column
from limbeck.errors import BadData
from limbeck.rng import apart, derive

__all__ = ["Source", "Table", "rows_of_step"]


class Source(Protocol):
    """Rows by index. `take` collates: what it returns is ready for the players."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def take(self, rows: Tensor) -> Mapping[str, Column]:
        """Return the columns of these rows (int64 indices, first axis of every column in the same order)."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of the contents."""
        ...


class Table:
    """A source held in memory.

    Args:
        columns: name to tensor (first axis the rows) or list; all of one length.

    Raises:
        BadData: no rows, columns of unequal length, or a value that is not finite.

    Example:
        >>> Table({"x": torch.eye(3), "y": torch.arange(3)}).take(torch.tensor([2, 0]))["y"]
        tensor([2, 0])
    """

    def __init__(self, columns: Mapping[str, Column]) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise BadData(f"a table needs columns of one length and at least one row, got {lengths or 'no column'}")
        for name, column in columns.items():
            if isinstance(column, Tensor) and column.is_floating_point() and not column.isfinite().all():
                row = int((~column.isfinite().reshape(len(column), -1).all(1)).nonzero()[0])
                raise BadData(f"column {name!r} holds NaN or infinity, first in row {row}")
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, rows: Tensor) -> dict[str, Column]:
        """Return the columns of these rows.

        Raises:
            IndexError: a row that the table does not have.
        """
        return {k: c[rows] if isinstance(c, Tensor) else [c[i] for i in rows.tolist()] for k, c in self.columns.items()}

    @property
    def fingerprint(self) -> str:
        """A hash of names, shapes and contents."""
        h = hashlib.blake2b(digest_size=8)
        for name, column in sorted(self.columns.items()):
            h.update(name.encode())
            if isinstance(column, Tensor):
                h.update(repr((column.dtype, tuple(column.shape))).encode())
                h.update(column.contiguous().view(torch.uint8).numpy().data if column.numel() else b"")
            else:
                h.update(json.dumps(column, sort_keys=True, default=str).encode())
        return h.hexdigest()


@lru_cache(maxsize=8)
def _epoch(n: int, *key: Any) -> Tensor:
    """The order of one pass over n rows."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive("order", n, *key)))


def rows_of_step(n: int, step: int, batch_size: int, *key: Any) -> Tensor:
    """The rows of one global batch: passes over shuffled data, one after the other, nothing dropped.

    Args:
        n: rows in the source.
        step: the index of the batch.
        batch_size: rows of the global batch; may exceed n.
        key: what the order belongs to (seed, stage); for several runs side by side, the seeds of `Each`.

    Returns:
        (batch_size,) int64; for several runs, the rows of one after those of the other.

    Example:
        >>> both = torch.cat([rows_of_step(6, s, 3, "seed", 0) for s in (0, 1)])
        >>> sorted(both.tolist())
        [0, 1, 2, 3, 4, 5]
    """
    if len(seats := apart(key)) > 1:
        return torch.cat([rows_of_step(n, step, batch_size, *seat) for seat in seats])
    first, last = step * batch_size, (step + 1) * batch_size
    passes = range(first // n, (last - 1) // n + 1)
    pieces = [_epoch(n, e, *key)[max(0, first - e * n) : last - e * n] for e in passes]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def batch_of(source: Source, rows: Tensor) -> Batch:
    """Take rows as a batch that remembers which rows of the source they are.

    Example:
        >>> batch_of(Table({"x": torch.eye(3)}), torch.tensor([2, 0])).index
        tensor([2, 0])
    """
    return Batch({**source.take(rows), "index": rows})
