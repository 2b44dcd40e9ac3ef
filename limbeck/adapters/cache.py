"""A cache of sparse targets on disk: the teacher is paid once, and any number of students learn from what it said.

    cache.json      whose targets these are: format, tokenizer, vocabulary, teacher, kind of targets; and how good
    000000.rows     blocks, one after the other; a new file after each gibibyte
    index           the heads of all blocks, so that opening reads no more than them
    .lock           held while a block is written

A row is found by a hash of its tokens, of which of them are targets and of what is read beside them: so order, padding
and splits of the data do not matter, and a row that occurs twice is stored once. Blocks (see `limbeck.adapters.blocks`)
are only ever appended, in the files first and in the index after that. What a crash cut short is not whole, and is cut
away before the next block is written; a block that is whole but missing in the index is found again. Files that a
killed writer had not yet put under their name are removed by the next one.

About 200 bytes of memory are taken for each row.

Shapes: B rows, T tokens, K ids of a token.
"""

from __future__ import annotations

import bisect
import fcntl
import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.adapters.blocks import Block, Row, Totals, blocks, join
from limbeck.adapters.packing import Flat, Grid, unpack
from limbeck.errors import BadData, BadValue, Mismatch
from limbeck.run import write_atomically, writing

__all__ = ["About", "TargetCache", "read_about", "row_keys"]

FORMAT = 1
READ_BESIDE = ("source", "pixels")
SHARD = 2**30  # bytes after which another file is begun
MEND = "copy it again; or delete it and fill the cache again, which asks the teacher for its rows alone"


@dataclass(frozen=True)
class About:
    """Whose targets a cache holds.

    Args:
        tokenizer: the hash of the tokenizer's family; empty without a tokenizer.
        vocabulary: the number of tokens.
        teacher: the name of the teacher, for people.
        weights: the hash of its weights.
        targets: the kind of targets and its numbers.
        step: nats between log-probabilities that are told apart (see `Grid`).

    Raises:
        BadValue: a step out of range.
    """

    tokenizer: str
    vocabulary: int
    teacher: str
    weights: str
    targets: Mapping[str, Any]
    step: float = 1 / 16

    def __post_init__(self) -> None:
        Grid(self.step)

    @property
    def grid(self) -> Grid:
        """How log-probabilities are stored."""
        drawn = "draws" in self.targets
        counted = drawn and self.targets.get("alpha") == 1
        return Grid(self.step, self.targets["draws"] if counted else 0, whole=not drawn)

    def check(self, other: About, path: Path) -> None:
        """Refuse what does not belong to this cache.

        Args:
            other: whose targets are to be added.
            path: of the cache, for the message.

        Raises:
            Mismatch: another tokenizer, teacher, kind of targets or step.
        """
        called = {"weights": "teacher", "targets": "kind of targets"}
        for name in ("tokenizer", "vocabulary", "weights", "targets", "step"):
            held, new = (f"{a.teacher} ({a.weights})" if name == "weights" else getattr(a, name) for a in (self, other))
            if getattr(self, name) != getattr(other, name):
                what = f"targets of another {called.get(name, name)}: {held} there, {new} here"
                raise Mismatch(f"{path} holds {what}; choose another directory")


def row_keys(batch: Mapping[str, Any]) -> list[bytes]:
    """The keys of rows: hashes of the tokens up to the last target, of which are targets, and of what is read beside.

    Args:
        batch: `tokens` (B, T), `mask` (B, T), and `source` and `pixels` with their lengths where there are any.

    Returns:
        B keys, b"" for a row without targets.

    Raises:
        BadData: a first token that is a target, which nothing predicts.

    Example:
        >>> mask = torch.tensor([[False, True, False]] * 2)
        >>> a, b = row_keys({"tokens": torch.tensor([[5, 6, 0], [5, 6, 9]]), "mask": mask})
        >>> a == b, row_keys({"tokens": torch.zeros(1, 3), "mask": mask[:1] & False})
        (True, [b''])
    """
    mask, tokens = batch["mask"].cpu().numpy(), batch["tokens"].cpu().numpy().astype("<i4")
    if mask[:, :1].any():
        raise BadData(f"row {int(mask[:, 0].argmax())} of the batch has a first token that is a target")
    ends = (mask * np.arange(1, mask.shape[1] + 1)).max(1, initial=0)
    beside = _beside(batch, len(mask))
    return [
        hashlib.blake2b(t[:e].tobytes() + np.packbits(m[:e]).tobytes() + b, digest_size=16).digest() if e else b""
        for t, m, e, b in zip(tokens, mask, ends, beside, strict=True)
    ]


def _beside(batch: Mapping[str, Any], rows: int) -> list[bytes]:
    """The bytes of what each row is read with, without its padding."""
    read = [b""] * rows
    for name in READ_BESIDE:
        if f"{name}_length" in batch:
            column, lengths = batch[name].cpu().numpy(), batch[f"{name}_length"].tolist()
            read = [r + name.encode() + c[:n].tobytes() for r, c, n in zip(read, column, lengths, strict=True)]
    return read


class TargetCache:
    """A directory of sparse targets.

    Args:
        path: the directory.
        about: whose targets are to be added; without it the cache is only read.

    Raises:
        BadData: no cache there, or one that is damaged.
        Mismatch: a cache of another tokenizer, teacher, kind of targets or format.
        BadValue: a directory that holds other things.
        RunError: it cannot be written.
    """

    def __init__(self, path: str | Path, about: About | None = None) -> None:
        self.path = Path(path)
        self._maps: dict[int, mmap.mmap] = {}
        self._forget()
        if about is not None:
            self._found(about)
        self.about = read_about(self.path)
        if about is None:
            self._load()
            for shard in self._lost():
                raise BadData(f"{self._file(shard)} is gone or cut: its rows end at byte {self._ends[shard]}; {MEND}")
        else:
            self.about.check(about, self.path)
            with self._locked():
                self._sweep()
                self._mend()
                self._say()

    def _sweep(self) -> None:
        """Remove what writers that were killed had not yet put under its name; whoever holds the lock is alone here."""
        for name in ("cache.json", "index"):
            for file in self.path.glob(f".{name}.*"):
                with writing(file):
                    file.unlink()

    def _forget(self) -> None:
        self._blocks: list[Block] = []
        self._firsts: list[int] = []  # the number of the first row of each block
        self._numbers: dict[bytes, int] = {}
        self._stored = 0
        self._ends: dict[int, int] = {}  # where the last block of each file ends
        self._indexed = 0  # bytes of the index that are whole
        self._totals = Totals()

    # -- what it is ---------------------------------------------------------------------------------------------------

    def _found(self, about: About) -> None:
        """Begin a cache where there is none."""
        if (self.path / "cache.json").exists():
            return
        others = self.path.is_file() or (
            self.path.exists() and not all(p.startswith(".") for p in os.listdir(self.path))
        )
        if others:
            raise BadValue(f"{self.path} is or holds something else than a cache of targets; choose a new directory")
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not (self.path / "cache.json").exists():
                self.about = about
                self._say()

    def report(self) -> dict[str, Any]:
        """How much the cache holds, and how faithful it is.

        Returns:
            rows, tokens, bytes_per_token (all files), mass (the mean mass that a token keeps), mass_p10 (nine tokens in
            ten keep at least this much), kl (the mean KL(p || what is read), the mass that is not kept spread evenly
            over the other tokens; None for random draws, which stand for p in the mean only) and data, a fingerprint
            of the rows in whatever order.
        """
        figures = {"rows": len(self), **self._totals.report()}
        return figures if self.about.grid.whole else {**figures, "kl": None}

    def __str__(self) -> str:
        r = self.report()
        kl = "" if r["kl"] is None else f", KL {r['kl']:.3g}"
        kept = f"{r['mass']:.2%} of the mass kept (nine tokens in ten at least {r['mass_p10']:.2%}){kl}"
        return f"{self.path}: {r['rows']} rows, {r['tokens']} tokens, {r['bytes_per_token']:g} bytes a token, {kept}"

    def _say(self) -> None:
        """Write cache.json, if it would change."""
        said = {"format": FORMAT, **asdict(self.about), "report": self.report()}
        content, file = json.dumps(said, indent=1).encode(), self.path / "cache.json"
        if not file.exists() or file.read_bytes() != content:
            write_atomically(file, content)

    # -- reading ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def packed(self, number: int) -> tuple[memoryview, int]:
        """The bytes of a row, checked, and how many target tokens it has.

        Args:
            number: of the row, in the order in which rows were stored.

        Raises:
            BadData: the file is cut, or the bytes do not match their checksum.
        """
        place = bisect.bisect_right(self._firsts, number) - 1
        block = self._blocks[place]
        entry = block.entries[number - self._firsts[place]]
        at, size, shard = int(block.head["start"] + entry["at"]), int(entry["size"]), block.shard
        content = self._view(shard)[at : at + size]
        if len(content) < size or zlib.crc32(content) != entry["check"]:
            raise BadData(f"{self._file(shard)}, row {number}: its bytes do not match their checksum; {MEND}")
        return content, int(entry["tokens"])

    def _view(self, shard: int) -> memoryview:
        """A file of rows, mapped; mapped again where it has grown."""
        held, file = self._maps.get(shard), self._file(shard)
        if held is None or len(held) != file.stat().st_size:
            with file.open("rb") as opened:
                held = self._maps[shard] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(held)

    def read(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Read the targets of a batch of rows.

        Args:
            batch: right-padded `tokens` and `mask`, which of them are targets.

        Returns:
            `ids` (B, T, K) int64 in ascending order; `logp` (B, T, K) float32, -inf where a token keeps fewer than K;
            `tail` (B, T) float32, the log of the mass that is not kept. Tokens that are no targets keep nothing.

        Raises:
            BadData: a row that the cache does not hold, or one that is damaged.
        """
        keys = row_keys(batch)
        missing = [row for row, key in enumerate(keys) if key and key not in self]
        if missing:
            first = int(batch["index"][missing[0]]) if "index" in batch else missing[0]
            raise BadData(
                f"{self.path} does not hold {len(missing)} of {len(keys)} rows that are asked for, the first of them "
                f"row {first}: cache:{self.path}:TEACHER fills it; what a student says anew needs the teacher itself"
            )
        rows = [self.packed(self._numbers[key]) for key in keys if key]
        flat = unpack([content for content, _ in rows], [n for _, n in rows], self.about.grid)
        return _padded(flat, batch["mask"].cpu())

    # -- writing ------------------------------------------------------------------------------------------------------

    def append(self, rows: Sequence[Row]) -> None:
        """Store rows; those that are there already are left out. Once this returns they survive a crash.

        Args:
            rows: what was asked together.

        Raises:
            RunError: they cannot be written; what was stored before is kept.
        """
        with self._locked():
            self._mend()
            new = list({row.key: row for row in rows if row.key not in self}.values())
            if not new:
                return
            block, content = join(new, *self._place())
            _append(self._file(block.shard), content)
            _append(self.path / "index", block.raw)
            self._add(block)
            self._indexed += len(block.raw)
            self._say()

    def _place(self) -> tuple[int, int]:
        """Where the next block goes: the end of the last file, or the beginning of a new one."""
        shard = max(self._shards(), default=0)
        size = self._size(shard)
        return (shard, size) if size < SHARD else (shard + 1, 0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the directory against other writers; a writer that dies lets go of it."""
        with writing(self.path), (self.path / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # -- the state of the files ---------------------------------------------------------------------------------------

    def _file(self, shard: int) -> Path:
        return self.path / f"{shard:06d}.rows"

    def _shards(self) -> list[int]:
        return sorted(int(file.stem) for file in self.path.glob("[0-9]*.rows"))

    def _size(self, shard: int) -> int:
        return self._file(shard).stat().st_size if self._file(shard).exists() else 0

    def _add(self, block: Block) -> None:
        first = self._stored
        self._firsts.append(first)
        self._blocks.append(block)
        self._stored += len(block.entries)
        self._numbers.update(zip(block.keys, range(first, self._stored), strict=True))
        self._ends[block.shard] = block.end
        self._totals.add(block)

    def _load(self) -> list[Block]:
        """Read the rest of the index, then what is whole in the files but missing in the index, which is returned."""
        for block in blocks(_tail(self.path / "index", self._indexed)):
            self._add(block)
            self._indexed += len(block.raw)
        found = []
        for shard in (s for s in self._shards() if s >= max(self._ends, default=0)):
            end = self._ends.get(shard, 0)
            for block in blocks(_tail(self._file(shard), end), whole=True):
                self._add(block)
                found.append(block)
        return found

    def _lost(self) -> list[int]:
        """The files that are shorter than the rows that were written into them."""
        return [shard for shard, end in self._ends.items() if self._size(shard) < end]

    def _mend(self) -> None:
        """Take in what others wrote, cut away what is not whole, and forget rows whose file is gone or cut."""
        found = self._load()
        lost, index = self._lost(), self.path / "index"
        if lost:
            kept = [b for b in self._blocks if b.end <= self._size(b.shard)]
            self._forget()
            for block in kept:
                self._add(block)
            write_atomically(index, b"".join(block.raw for block in kept))
        else:
            _cut(index, self._indexed)
            _append(index, b"".join(block.raw for block in found))
        self._indexed = sum(len(block.raw) for block in self._blocks) if lost or found else self._indexed
        for shard in self._shards()[-1:]:
            _cut(self._file(shard), self._ends.get(shard, 0))


def read_about(path: Path) -> About:
    """Read whose targets a cache holds.

    Args:
        path: of its directory.

    Raises:
        BadData: no cache there, or a broken `cache.json`.
        Mismatch: a cache of another format.
    """
    file = path / "cache.json"
    try:
        said = json.loads(file.read_text())
        if said["format"] != FORMAT:
            raise Mismatch(f"{file} is of format {said['format']}; this version of limbeck reads format {FORMAT}")
        return About(**{k: v for k, v in said.items() if k not in ("format", "report")})
    except (FileNotFoundError, NotADirectoryError):
        raise BadData(f"{path} is no cache of targets: it has no cache.json; cache:{path}:TEACHER fills one") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{file} is broken: {error}") from None


def _padded(flat: Flat, mask_BT: Tensor) -> dict[str, Tensor]:
    """Flat targets as columns on the target positions of a batch."""
    most = max(1, int(flat.counts.max(initial=0)))
    kept_NK = torch.arange(most) < torch.from_numpy(flat.counts)[:, None]
    columns = {}
    for name, values, empty, kind in (
        ("ids", flat.ids, 0, torch.int64), ("logp", flat.logp, -torch.inf, torch.float32),
    ):  # fmt: skip
        dense_NK = torch.full(kept_NK.shape, empty, dtype=kind)
        dense_NK[kept_NK] = torch.from_numpy(values).to(kind)
        columns[name] = torch.full((*mask_BT.shape, most), empty, dtype=kind)
        columns[name][mask_BT] = dense_NK
    columns["tail"] = torch.zeros(mask_BT.shape)
    columns["tail"][mask_BT] = torch.from_numpy(flat.tail).float()
    return columns


# -- files ------------------------------------------------------------------------------------------------------------


def _tail(file: Path, at: int) -> bytes:
    """The bytes of a file from some place on; none where there is no file."""
    if not file.exists() or file.stat().st_size <= at:
        return b""
    with file.open("rb") as opened:
        opened.seek(at)
        return opened.read()


def _append(file: Path, content: bytes) -> None:
    """Write at the end of a file, and on the disk."""
    if content:
        with writing(file), file.open("ab") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())


def _cut(file: Path, size: int) -> None:
    """Cut a file that is longer than that."""
    if file.exists() and file.stat().st_size > size:
        with writing(file):
            os.truncate(file, size)
