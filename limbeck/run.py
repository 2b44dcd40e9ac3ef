"""Run directories: everything of one execution, written so that a crash at any moment loses nothing that was said.

    run.json          recipe as resolved, arguments, seed, versions, fingerprints of the data, status
    metrics.jsonl     one row a step
    checkpoints/      the last two, each complete or absent
    journal/          what *make* stages have made, chunk by chunk, and what servers have answered, one by one
    report.html ...   what `limbeck report` writes

Files appear under their final name only when they are complete and on the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from limbeck.batch import Column
from limbeck.errors import BadData, RunConflict, RunError

__all__ = ["Journal", "Run", "write_atomically"]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write into an error that names the file.

    Raises:
        RunError: the disk is full, the directory is not writable, or the like.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"cannot write {path}: {reason}; free or mend it, then continue with --resume") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either complete under its name or not there at all.

    Args:
        path: the file; its directory is made if needed.
        content: all of it.

    Raises:
        RunError: the disk is full or the directory is not writable.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def pack_columns(columns: Mapping[str, Column]) -> bytes:
    """Write columns as safetensors; columns of Python objects go into its header as JSON."""
    tensors = {k: c.contiguous().cpu() for k, c in columns.items() if isinstance(c, Tensor)}
    lists = {k: json.dumps(c) for k, c in columns.items() if not isinstance(c, Tensor)}
    return save(tensors or {"": torch.empty(0)}, metadata=lists)


def unpack_columns(path: Path) -> dict[str, Column]:
    """Read what `pack_columns` wrote.

    Raises:
        BadData: the file is truncated or not of this kind.
    """
    try:
        tensors = load_file(path)
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (SafetensorError, ValueError, OSError) as error:
        raise BadData(f"{path} is damaged: {error}") from error
    tensors.pop("", None)
    lists = header.get("__metadata__") or {}
    return {**tensors, **{k: json.loads(v) for k, v in lists.items()}}


class Journal:
    """The chunks that a *make* stage has finished, one file each.

    Args:
        path: its directory; None keeps the chunks in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._chunks: dict[int, dict[str, Column]] = {}

    def read(self, chunk: int) -> dict[str, Column] | None:
        """Return a finished chunk, or None; one that is damaged counts as not finished."""
        if self.path is None:
            return self._chunks.get(chunk)
        file = self.path / f"{chunk:06d}.safetensors"
        try:
            return unpack_columns(file) if file.exists() else None
        except BadData:
            file.unlink()
            return None

    def write(self, chunk: int, columns: Mapping[str, Column]) -> None:
        """Keep a finished chunk; once this returns it survives a crash.

        Raises:
            RunError: it cannot be written.
        """
        if self.path is None:
            self._chunks[chunk] = dict(columns)
        else:
            write_atomically(self.path / f"{chunk:06d}.safetensors", pack_columns(columns))


class Run:
    """A run directory, held by one execution at a time; a context manager.

    Args:
        path: the directory; None for a run that leaves no trace (claims).
        record: what identifies the run: recipe, seed, data; compared on resume.
        resume: continue the run that is there.
        main: whether this process writes; the others of a distributed job only read.

    Raises:
        RunConflict: the directory is in use, holds another run, or holds this one and `resume` is not set.
    """

    def __init__(
        self, path: Path | None, record: Mapping[str, Any], *, resume: bool = False, main: bool = True
    ) -> None:
        self.path, self.record, self.main = path, dict(record), main
        self._lock: IO[str] | None = None
        self._metrics: IO[str] | None = None
        self.resume = resume

    def __enter__(self) -> Run:
        if self.path is None or not self.main:
            return self
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a+")
        try:
            self._hold(self.path, self._lock)
            if (self.path / "run.json").exists():
                self._continue(self.path)
            self.update(status="running")
            with writing(self.path):
                self._metrics = (self.path / "metrics.jsonl").open("a")
        except BaseException:
            self._lock.close()
            raise
        return self

    def _hold(self, path: Path, lock: IO[str]) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise RunConflict(f"{path} is in use by process {holder}; wait for it or choose another --out") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()

    def _continue(self, path: Path) -> None:
        old = json.loads((path / "run.json").read_text())
        if not self.resume:
            way_out = "continue it with --resume, or choose another --out"
            raise RunConflict(f"{path} already holds a run of {old.get('key')}; {way_out}")
        for name, value in self.record.items():
            if json.loads(json.dumps(value)) != old.get(name):
                was, now = _first_difference(old.get(name), value)
                raise RunConflict(f"{path} holds another run: its {name} differs ({was} there, {now} here)")
        self.record = {**old, **self.record}

    def update(self, **entries: Any) -> None:
        """Change entries of run.json (status, figures)."""
        self.record.update(entries)
        if self.path is not None and self.main:
            write_atomically(self.path / "run.json", json.dumps(self.record, indent=1).encode())

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        if self._metrics is not None:
            with writing(Path(self._metrics.name)):
                self._metrics.write(json.dumps(row) + "\n")

    def logged(self) -> int:
        """How many bytes of metrics have been written, all of them flushed."""
        if self._metrics is None:
            return 0
        with writing(Path(self._metrics.name)):
            self._metrics.flush()
        return self._metrics.tell()

    def rewind(self, logged: int) -> None:
        """Forget the metrics after a checkpoint, whose steps will be done again."""
        if self._metrics is not None:
            self._metrics.truncate(logged)
            self._metrics.seek(logged)

    def journal(self, stage: str) -> Journal:
        """The journal of a *make* stage."""
        return Journal(self.path / "journal" / stage if self.path else None)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the execution: say how it ended and release the directory."""
        if self._metrics is not None:
            self._metrics.close()
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.update(status="done" if kind is None else "interrupted" if stopped else "failed")
        if self._lock is not None:
            self._lock.close()


def _first_difference(old: Any, new: Any, at: str = "") -> tuple[str, str]:
    """Where two records differ first, shortly."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    label = f"{at}=" if at else ""
    return f"{label}{old!r}"[:80], f"{label}{new!r}"[:80]
