"""Weights from directories: safetensors only, whole, finite, and all of them.

Pickles run code when they are read, so they are not read; the message says how to convert them.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn

from limbeck.errors import BadWeights

__all__ = ["check_weights", "load_weights", "read_json", "silent", "wrapped"]

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
HARMLESS = ("pooler.", "position_ids")


def wrapped(net: nn.Module) -> Any:
    """The transformers model inside a net (under peft's wrapper, if it has one), or None.

    Example:
        >>> wrapped(nn.Identity()) is None
        True
    """
    return getattr(net, "lm", None) or getattr(net, "model", None)


@contextmanager
def silent() -> Iterator[None]:
    """Keep logs and progress bars of libraries away from the one message that the user gets."""
    logging.disable(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        transformers.utils.logging.enable_progress_bar()


def read_json(path: Path) -> Any:
    """Read a JSON file of a model directory.

    Raises:
        BadWeights: it is missing or broken.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise BadWeights(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadWeights(f"{path} is broken: {error}") from None


def check_weights(directory: Path, name: str = "model") -> list[Path]:
    """Check that the weights of a directory are safetensors and whole, without loading them.

    Args:
        directory: of a model.
        name: of the file, without its ending.

    Returns:
        The files.

    Raises:
        BadWeights: none, only pickled ones, a missing shard, or a truncated file.
    """
    index, single = directory / f"{name}.safetensors.index.json", directory / f"{name}.safetensors"
    if index.exists():
        files = sorted({directory / shard for shard in read_json(index)["weight_map"].values()})
    elif single.exists():
        files = [single]
    else:
        raise BadWeights(_no_weights(directory, name))
    for file in files:
        if not file.exists():
            raise BadWeights(f"{file} is missing: {index.name} names {len(files)} shards; copy all of them")
        _check_file(file)
    return files


def _no_weights(directory: Path, name: str) -> str:
    pickled = sorted(
        p for pattern in PICKLES for p in directory.glob(pattern) if not p.name.startswith("training_args")
    )
    if not pickled:
        other = sorted(p.name for p in directory.glob("*.safetensors"))
        near = difflib.get_close_matches(f"{name}.safetensors", other, n=1, cutoff=0.3)
        return f"{directory} has no {name}.safetensors" + (f"; did you mean to rename {near[0]}?" if near else "")
    return (
        f"{pickled[0]} is a pickle, which may run code and is not read; convert it where you trust it: "
        f"AutoModel.from_pretrained({str(directory)!r}).save_pretrained(OUT), with the class of its architecture, "
        "writes safetensors"
    )


def _check_file(file: Path) -> None:
    try:
        with safe_open(file, "pt") as tensors:
            if not tensors.keys():
                raise BadWeights(f"{file} holds no tensor")
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise BadWeights(f"{file} is truncated or no safetensors ({size} bytes: {error}); copy it again") from None


def load_weights(kind: Any, directory: Path, dtype: torch.dtype, trust_remote_code: bool = False, **how: Any) -> Any:
    """Load a transformers model and refuse to fill gaps with random numbers.

    Args:
        kind: an `Auto...` class of transformers, or a model class.
        directory: of the model.
        dtype: of the weights in memory.
        trust_remote_code: run Python code that lies in the directory.
        how: further options of `from_pretrained`.

    Returns:
        The model, in evaluation mode.

    Raises:
        BadWeights: missing, truncated, pickled, of other shapes than the config says, or not finite.
    """
    check_weights(directory)
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True, "dtype": dtype}
    options |= {"ignore_mismatched_sizes": True, **how}  # mismatches are reported below, with names
    try:
        with silent():
            model, info = kind.from_pretrained(directory, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BadWeights(f"{directory}: {str(error).strip().splitlines()[0]}") from None
    missing = sorted(k for k in info["missing_keys"] if not any(h in k for h in HARMLESS))
    if missing:
        raise BadWeights(
            f"{directory}: the weights lack {missing[0]!r} and {len(missing) - 1} more that {kind.__name__} needs"
        )
    if odd := sorted(info["mismatched_keys"]):
        raise BadWeights(f"{directory}: {odd[0][0]!r} has shape {tuple(odd[0][1])}, the config says {tuple(odd[0][2])}")
    _check_finite(model, directory)
    return model.eval()


def _check_finite(model: nn.Module, directory: Path) -> None:
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise BadWeights(f"{directory}: {name!r} holds NaN or infinity")
