"""Checkpoints: the whole state of a run at one optimiser step, as safetensors and JSON.

A checkpoint is a directory that appears under its name only when it is complete; a hash of each file is in its
manifest. The last two are kept, so that a damaged one can be passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.errors import BadCheckpoint
from limbeck.run import writing

__all__ = ["load_latest", "pack", "save_checkpoint", "unpack"]

KEEP = 2


def pack(tree: Any, tensors: dict[str, Tensor], at: str = "") -> Any:
    """Split a tree of dicts, lists, tensors and plain values into tensors by name and a JSON-able skeleton.

    Args:
        tree: the state, such as an optimiser's `state_dict()`.
        tensors: receives the tensors.
        at: the name of the root.

    Returns:
        The skeleton, from which `unpack` restores the tree; dict keys keep their types.
    """
    if isinstance(tree, Tensor):
        tensors[at] = tree
        return {"tensor": at}
    if isinstance(tree, Mapping):
        return {"dict": [[k, pack(v, tensors, f"{at}/{k}")] for k, v in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {type(tree).__name__: [pack(v, tensors, f"{at}/{i}") for i, v in enumerate(tree)]}
    return {"value": tree}


def unpack(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Restore what `pack` split.

    Example:
        >>> store = {}
        >>> unpack(pack({0: {"lr": 0.1, "betas": (0.9, 0.99)}}, store), store)
        {0: {'lr': 0.1, 'betas': (0.9, 0.99)}}
    """
    ((kind, value),) = skeleton.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {k: unpack(v, tensors) for k, v in value}
    if kind in ("list", "tuple"):
        items = [unpack(v, tensors) for v in value]
        return items if kind == "list" else tuple(items)
    return value


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def save_checkpoint(folder: Path, number: int, state: Mapping[str, Any]) -> None:
    """Write a checkpoint and drop all but the last two.

    Args:
        folder: the run's `checkpoints`.
        number: grows with every checkpoint of the run.
        state: a tree (see `pack`).

    Raises:
        RunError: the disk is full or not writable; older checkpoints are untouched.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = pack(state, tensors)
    final, temporary = folder / f"{number:08d}", folder / f".{number:08d}.part"
    with writing(final):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        plain = {k: t.detach().to("cpu", copy=True).contiguous() for k, t in tensors.items()}
        save_file(plain or {"none": torch.empty(0)}, temporary / "state.safetensors")
        (temporary / "state.json").write_text(json.dumps(skeleton))
        hashes = {name: _hash(temporary / name) for name in ("state.safetensors", "state.json")}
        (temporary / "manifest.json").write_text(json.dumps(hashes))
        for file in temporary.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    for old in _numbers(folder)[:-KEEP]:
        shutil.rmtree(folder / f"{old:08d}")


def _numbers(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.glob("[0-9]*")) if folder.is_dir() else []


def _load(path: Path) -> Any:
    try:
        hashes = json.loads((path / "manifest.json").read_text())
        for name, expected in hashes.items():
            if _hash(path / name) != expected:
                raise BadCheckpoint(f"{path / name} does not match its hash")
        return unpack(json.loads((path / "state.json").read_text()), load_file(path / "state.safetensors"))
    except (OSError, ValueError, KeyError) as error:
        raise BadCheckpoint(f"{path} cannot be read: {error}") from error


def load_latest(folder: Path) -> tuple[int, Any] | None:
    """Read the newest checkpoint whose hashes match.

    Args:
        folder: the run's `checkpoints`.

    Returns:
        Its number and state, or None if there is none.

    Raises:
        BadCheckpoint: there are checkpoints, and every one is damaged.
    """
    numbers = _numbers(folder)
    for number in reversed(numbers):
        try:
            return number, _load(folder / f"{number:08d}")
        except BadCheckpoint as error:
            warnings.warn(f"{error}; falling back to the checkpoint before it", stacklevel=2)
    if numbers:
        raise BadCheckpoint(f"no checkpoint in {folder} can be read; start the run again in another directory")
    return None
