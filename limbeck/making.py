"""Made data: what a *make* stage makes of rows, chunk by chunk, journalled so that nothing is made twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data import Table, batch_of
from limbeck.errors import BadData
from limbeck.processes import anywhere, from_all, from_main
from limbeck.recipe import Make
from limbeck.rng import Rng

if TYPE_CHECKING:
    from limbeck.loop import Loop

__all__ = ["make"]


def make(stage: Make, loop: Loop, path: str) -> Table:
    """Make the data of a stage; several processes make different chunks, and each gets all of them.

    Args:
        stage: what is made of which rows.
        loop: the run, whose players are asked.
        path: the stage's path; finished chunks are journalled under it.

    Returns:
        The rows of all chunks, in order.

    Raises:
        BadData: no row is left.
        KeyboardInterrupt: it was interrupted; what is finished is kept.
    """
    rows = len(loop.source(stage.data, path))
    loop.players.turn(path)
    size = stage.chunk or rows
    pieces = [slice(at, min(at + size, rows)) for at in range(0, rows, size)]
    pieces = pieces[: loop.options.max_steps or None]
    together, chunks = loop.accelerator.num_processes, list[dict[str, Any]]()
    for first in loop.progress.track(path, range(0, len(pieces), together)):
        numbers = range(first, min(first + together, len(pieces)))
        chunks += _chunks(stage, loop, path, pieces, numbers)
        if anywhere(loop.accelerator, stop=loop.interrupt.asked)["stop"]:
            raise KeyboardInterrupt(f"stopped in stage {path} after chunk {len(chunks)}")
    columns = {name: _joined([c[name] for c in chunks]) for name in chunks[0]}
    if not any(map(len, columns.values())):
        raise BadData(f"stage {path} kept no row of {stage.data!r}: nothing is left to learn from")
    return Table(columns)


def _chunks(stage: Make, loop: Loop, path: str, pieces: list[slice], numbers: range) -> list[dict[str, Any]]:
    """Some chunks, one made by each process, or read where they were made before."""
    journal, main = loop.run.journal(path), loop.accelerator.is_main_process
    known = from_main([journal.read(n) if main else None for n in numbers], loop.accelerator)
    if all(chunk is not None for chunk in known):
        return list(known)
    here = loop.accelerator.process_index
    place = min(here, len(numbers) - 1)
    mine = known[place]
    # where there are more processes than chunks, the others look on, unless a sharded net needs them to run
    if (mine is None and here == place) or loop.options.shard:
        mine = _made(stage, loop, path, pieces[numbers[place]])
    made = from_all(mine, loop.accelerator)[: len(numbers)]
    for n, old, new in zip(numbers, known, made, strict=True):
        if old is None and main:
            journal.write(n, new)
    return made


@torch.no_grad()
def _made(stage: Make, loop: Loop, path: str, piece: slice) -> dict[str, Any]:
    """What the stage makes of a piece of its data."""
    rows = torch.arange(piece.start, piece.stop)
    batch = replace(batch_of(loop.source(stage.data, path), rows), rng=Rng((loop.options.seed, path), rows))
    return dict(stage.rows(loop.players, batch.to(loop.device)).to("cpu").columns)


def _joined(pieces: list[Any]) -> Any:
    """The pieces of a column one after the other; tensors of unequal width are padded with zeros on the right."""
    if not isinstance(pieces[0], Tensor):
        return [value for piece in pieces for value in piece]
    if pieces[0].ndim > 1:
        width = max(p.shape[1] for p in pieces)
        pieces = [nn.functional.pad(p, (0, 0) * (p.ndim - 2) + (0, width - p.shape[1])) for p in pieces]
    return torch.cat(pieces)
