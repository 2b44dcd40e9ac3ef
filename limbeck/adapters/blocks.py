"""Blocks of rows, as the files of a cache hold them: sound in themselves, wherever they are found.

A block is a head, a directory and the rows that were asked together. Head and directory have one checksum, each row its
own; so blocks without their rows, one after the other, make up the index of a cache.

Shapes: n tokens of a row.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from limbeck.adapters.packing import Array

__all__ = ["Block", "Row", "Totals", "blocks", "join"]

MAGIC = b"LBT1"
BINS = 64  # of the mass that is not kept: bin b holds 2^(-(b + 1) / 2) to 2^(-b / 2)
HEAD = np.dtype(
    [
        ("magic", "S4"), ("check", "<u4"), ("shard", "<u4"), ("rows", "<u4"), ("start", "<u8"), ("size", "<u8"),
        ("tokens", "<u8"), ("mass", "<f8"), ("kl", "<f8"), ("tails", "<u4", (BINS,)),
    ]
)  # fmt: skip
ENTRY = np.dtype([("key", "<u8", (2,)), ("at", "<u8"), ("size", "<u4"), ("tokens", "<u4"), ("check", "<u4")])


class Row(NamedTuple):
    """A row to be stored: its key of 16 bytes, its packed targets, the mass each token keeps (n,), its summed KL."""

    key: bytes
    packed: bytes
    mass: Array
    kl: float


class Block(NamedTuple):
    """The head of a block, and its directory: of each row the key, place, size, target tokens and checksum."""

    head: Any
    entries: Array

    @property
    def raw(self) -> bytes:
        """The bytes of both."""
        return bytes(self.head.tobytes() + self.entries.tobytes())

    @property
    def shard(self) -> int:
        """The number of the file that it is in."""
        return int(self.head["shard"])

    @property
    def end(self) -> int:
        """Where it ends in that file."""
        return int(self.head["start"] + self.head["size"])

    @property
    def keys(self) -> list[bytes]:
        """The keys of its rows."""
        raw = self.entries["key"].tobytes()
        return [raw[i : i + 16] for i in range(0, len(raw), 16)]


@dataclass
class Totals:
    """Sums over blocks, from which a report is made."""

    tokens: int = 0
    size: int = 0
    mass: float = 0.0
    kl: float = 0.0
    tails: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    keys: Array = field(default_factory=lambda: np.zeros(2, np.uint64))

    def add(self, block: Block) -> None:
        """Add what a block says of itself."""
        self.tokens += int(block.head["tokens"])
        self.size += int(block.head["size"]) + len(block.raw)
        self.mass += float(block.head["mass"])
        self.kl += float(block.head["kl"])
        self.tails += block.head["tails"]
        self.keys += block.entries["key"].sum(0, dtype=np.uint64)

    def report(self) -> dict[str, Any]:
        """The figures of a cache's report but the number of rows (see `TargetCache.report`).

        Example:
            >>> Totals().report()["bytes_per_token"]
            0.0
        """
        tokens = max(1, self.tokens)
        tenth = int(np.searchsorted(self.tails.cumsum(), 0.1 * self.tokens))  # the bins of large tails come first
        return {
            "tokens": self.tokens, "bytes_per_token": round(self.size / tokens, 2),
            "mass": round(self.mass / tokens, 6), "mass_p10": round(1 - 2.0 ** (-tenth / 2), 6),
            "kl": round(self.kl / tokens, 6), "data": self.keys.tobytes().hex(),
        }  # fmt: skip


def join(rows: Sequence[Row], shard: int, start: int) -> tuple[Block, bytes]:
    """Make a block of rows.

    Args:
        rows: with different keys.
        shard: the number of the file that it will be in.
        start: where in that file.

    Returns:
        The block, and the bytes to be written: its own and those of the rows.
    """
    sizes = np.array([len(row.packed) for row in rows])
    entries = np.zeros(len(rows), ENTRY)
    entries["key"] = np.frombuffer(b"".join(row.key for row in rows), "<u8").reshape(-1, 2)
    entries["at"] = HEAD.itemsize + entries.nbytes + sizes.cumsum() - sizes
    entries["size"], entries["tokens"] = sizes, [len(row.mass) for row in rows]
    entries["check"] = [zlib.crc32(row.packed) for row in rows]
    mass, kl = np.concatenate([row.mass for row in rows]), sum(row.kl for row in rows)
    size = HEAD.itemsize + entries.nbytes + int(sizes.sum())
    head = np.array([(MAGIC, 0, shard, len(rows), start, size, len(mass), mass.sum(), kl, _bins(mass))], HEAD)[0]
    head["check"] = _check(head, entries)
    block = Block(head, entries)
    return block, b"".join((block.raw, *(row.packed for row in rows)))


def blocks(content: bytes, whole: bool = False) -> Iterator[Block]:
    """The blocks at the beginning of a stretch of bytes, up to the first that is not complete and sound.

    Args:
        content: of an index; or of a file of rows, where the rows lie between the heads.
        whole: the rows are there, and are checked too.
    """
    at = 0
    while (block := _block_at(content, at)) is not None:
        size = int(block.head["size"]) if whole else len(block.raw)
        if at + size > len(content) or (whole and not _sound(block, content[at : at + size])):
            return
        yield block
        at += size


def _block_at(content: bytes, at: int) -> Block | None:
    body = at + HEAD.itemsize
    if body > len(content) or content[at : at + len(MAGIC)] != MAGIC:
        return None
    head = np.frombuffer(content, HEAD, 1, at)[0]
    if body + int(head["rows"]) * ENTRY.itemsize > len(content):
        return None
    block = Block(head, np.frombuffer(content, ENTRY, int(head["rows"]), body))
    return block if _check(*block) == head["check"] else None


def _check(head: Any, entries: Array) -> int:
    """The checksum of a head and its directory."""
    bare = head.copy()
    bare["check"] = 0
    return zlib.crc32(bare.tobytes() + entries.tobytes())


def _sound(block: Block, content: bytes) -> bool:
    """Whether every row of a block matches its checksum."""
    spans = block.entries[["at", "size", "check"]].tolist()
    return all(zlib.crc32(content[at : at + size]) == check for at, size, check in spans)


def _bins(mass: Array) -> Array:
    """How many tokens lose 2^(-(b + 1) / 2) to 2^(-b / 2) of their mass, for each bin b.

    Example:
        >>> _bins(np.array([0.0, 0.6, 1.0])).nonzero()[0].tolist()
        [0, 2, 63]
    """
    lost = np.clip(1 - mass, 2.0**-40, 1.0)
    return np.bincount(np.clip(np.floor(-2 * np.log2(lost)), 0, BINS - 1).astype(np.int64), minlength=BINS)
