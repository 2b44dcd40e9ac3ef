"""Traces: figures that are followed while players learn, kept where probes and later stages can read them.

    Repeat("rounds", (Learn(...), Solve("golden", record(into="golden"), ("trace",), data="valid")), times=50)

A trace is a state player: it comes back after a crash, and a claim can read it. Also here: the first rows of some data,
for stages that are to see no more of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.errors import BadData, unknown
from limbeck.part import Expr, part
from limbeck.parts.transcript import take
from limbeck.players import Players
from limbeck.probes.language import token_kl

__all__ = ["Trace", "first", "record", "trace"]


class Trace(nn.Module):
    """Series of figures, in the order in which they came.

    Args:
        series: their names.
        room: the most figures of one series.

    Example:
        >>> kept = Trace(("golden",), room=4)
        >>> kept.add("golden", 0.5)
        >>> kept.read("golden").tolist()
        [0.5]
    """

    figures: Tensor
    count: Tensor

    def __init__(self, series: tuple[str, ...], room: int) -> None:
        super().__init__()
        self.series = series
        self.register_buffer("figures", torch.zeros(len(series), room, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(len(series), dtype=torch.long))

    def _place(self, name: str) -> int:
        if name not in self.series:
            raise unknown("series", name, self.series, where="the trace")
        return self.series.index(name)

    def read(self, name: str) -> Tensor:
        """The figures of one series, (count,).

        Raises:
            UnknownName: there is no such series.
        """
        at = self._place(name)
        return self.figures[at, : int(self.count[at])]

    def add(self, name: str, figure: float) -> None:
        """Put a figure behind those of its series.

        Raises:
            UnknownName: there is no such series.
            BadData: there is no room left.
        """
        at = self._place(name)
        if self.count[at] == self.figures.shape[1]:
            raise BadData(f"the trace has room for {self.figures.shape[1]} figures of {name!r}; set its room higher")
        self.figures[at, self.count[at]] = figure
        self.count[at] += 1


@part
def trace(
    players: Players, batch: Batch, *, series: tuple[str, ...] = ("golden", "proxy"), room: int = 256
) -> nn.Module:
    """A state player that holds what was recorded.

    Args:
        players: not asked.
        batch: not read.
        series: the names of what is followed.
        room: the most figures of one series.
    """
    return Trace(series, room)


@part
def record(
    players: Players, batch: Batch, state: Mapping[str, Any], *, figure: Expr = token_kl(), into: str = "golden",
    limit: int = 0,
) -> tuple[Mapping[str, Any], dict[str, float]]:  # fmt: skip
    """Measure the players as they stand and keep the figure in the player `trace`.

    Args:
        players: those that the figure asks for, and `trace`.
        batch: the rows that the figure reads as its test rows.
        state: not used.
        figure: a probe.
        into: the series.
        limit: rows that it reads, the first ones; 0 for all.

    Returns:
        The state as it was, and the figure.

    Raises:
        UnknownName: the trace has no such series.
        BadData: it has no room left.
    """
    rows = {name: column[: limit or batch.size] for name, column in batch.items()}
    with torch.no_grad():
        found = float(figure(players, {"test": Table(rows)}))  # type: ignore[operator]
    players.trace.add(into, found)
    return state, {into: found}


@part
def first(players: Players, batch: Batch, *, rows: int = 300) -> Batch:
    """Keep the first rows: all that later steps are to see of some data, where a stage makes it in one piece.

    Args:
        players: not asked.
        batch: the rows.
        rows: how many are kept; fewer if there are fewer.
    """
    return take(batch, list(range(min(rows, batch.size))))
