"""The batch: the states at which players are compared.

Shapes: B rows, T tokens. A column is a tensor whose first axis is B, or a list of B Python objects (transcripts,
graphs, clips). Columns that parts share by name:

    x        (B, ...)  a datum: image, point, embedding         y     (B,) int64   its class
    tokens   (B, T)    int64 token ids, right-padded            mask  (B, T) bool  which tokens are targets
    length   (B,)      int64, tokens before the padding         index (B,) int64   row in the source it was drawn from
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import BadData, unknown
from limbeck.rng import Rng

__all__ = ["Batch", "Moment"]

Column = Tensor | list[Any]


@dataclass(frozen=True)
class Moment:
    """Where in a stage the loop stands: `step` of `steps`. Schedules are functions of it."""

    step: int = 0
    steps: int = 1

    @property
    def progress(self) -> float:
        """The part of the stage that is done, from 0 at the first step to 1 at the last.

        Example:
            >>> Moment(step=5, steps=11).progress
            0.5
        """
        return min(1.0, self.step / max(1, self.steps - 1))


@dataclass(frozen=True, eq=False)
class Batch(Mapping[str, Any]):
    """Named columns of B rows, with their random streams and their place in the run.

    A batch is never changed: `with_` returns another. What players answered on it is kept in `memo`, so that every
    part that asks the same player for the same thing shares one forward.

    Args:
        columns: name to tensor (first axis B) or list of B objects.
        rng: the random streams of the rows.
        at: the place in the stage; schedules read it.
        counts: rows and target tokens of the whole global batch; by default, of this one.

    Raises:
        BadData: columns of unequal length, none at all, or a first token that is a target.

    Example:
        >>> batch = Batch({"x": torch.zeros(3, 2)})
        >>> batch.size, batch.with_(t=torch.ones(3)).t.shape
        (3, torch.Size([3]))
    """

    columns: Mapping[str, Column]
    rng: Rng = None  # type: ignore[assignment]
    at: Moment = Moment()
    counts: Mapping[str, float] = field(default_factory=dict)
    memo: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        sizes = [_length(column) for column in self.columns.values()]
        if len(set(sizes)) != 1:
            shown = dict(zip(self.columns, sizes, strict=True)) or "no column"
            raise BadData(f"the columns of a batch must be of one length, got {shown}")
        if self.rng is None:
            object.__setattr__(self, "rng", Rng((), torch.arange(self.size, device=self.device)))
        if not self.counts:
            object.__setattr__(self, "counts", self.count())

    def __getitem__(self, name: str) -> Any:
        try:
            return self.columns[name]
        except KeyError:
            raise unknown("column", name, self.columns, where="the batch") from None

    def get(self, name: str, default: Any = None) -> Any:
        """Return a column, or the default where there is none.

        Example:
            >>> Batch({"x": torch.zeros(1)}).get("y", "none")
            'none'
        """
        return self.columns.get(name, default)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def size(self) -> int:
        """The number of rows, B."""
        return _length(next(iter(self.columns.values())))

    @property
    def device(self) -> torch.device:
        """Where the tensors are; the CPU if there are none."""
        return next((c.device for c in self.columns.values() if isinstance(c, Tensor)), torch.device("cpu"))

    def count(self) -> dict[str, float]:
        """Count this batch's rows and target tokens, the units over which losses are averaged.

        Example:
            >>> Batch({"mask": torch.tensor([[False, True, True]])}).count()
            {'rows': 1.0, 'tokens': 2.0}
        """
        mask = self.columns.get("mask")
        tokens = float(mask.sum()) if isinstance(mask, Tensor) else float(self.size)
        return {"rows": float(self.size), "tokens": tokens}

    def with_(self, **columns: Column) -> Batch:
        """Return the batch with columns added or replaced, and nothing answered on it yet.

        Where tokens are replaced, stored answers on the old ones (columns `<player>.<want>`) are left out.

        Raises:
            BadData: a column of another length.
        """
        kept = {k: c for k, c in self.columns.items() if "tokens" not in columns or "." not in k}
        merged = {**kept, **columns}
        counts = {} if "mask" in columns or "tokens" in columns else self.counts
        return Batch(merged, self.rng, self.at, counts)

    def without(self, *columns: str) -> Batch:
        """Return the batch without some columns, if it has them, and nothing answered on it yet.

        Example:
            >>> sorted(Batch({"x": torch.zeros(1), "s": torch.zeros(1)}).without("s", "w"))
            ['x']
        """
        kept = {k: c for k, c in self.columns.items() if k not in columns}
        return Batch(kept, self.rng, self.at, {} if "mask" in columns or "tokens" in columns else self.counts)

    def rows(self, rows: slice) -> Batch:
        """Return some of the rows; their random streams and the counts of the whole stay theirs.

        Example:
            >>> half = Batch({"x": torch.arange(4)}).rows(slice(0, 2))
            >>> half.x, half.counts["rows"]
            (tensor([0, 1]), 4.0)
        """
        return Batch({k: c[rows] for k, c in self.columns.items()}, self.rng.at(rows), self.at, self.counts)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`; itself, if they are there."""
        if self.device == torch.device(device) and self.rng.rows.device == self.device:
            return self
        moved = {k: c.to(device, non_blocking=True) if isinstance(c, Tensor) else c for k, c in self.columns.items()}
        return Batch(moved, Rng(self.rng.key, self.rng.rows.to(device)), self.at, self.counts)


def _length(column: Column) -> int:
    return column.shape[0] if isinstance(column, Tensor) else len(column)
