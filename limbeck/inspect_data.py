"""What `limbeck data check` shows: what will be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.adapters.data import hold_out, open_data
from limbeck.beds import beds, load_bed

__all__ = ["inspect_data"]


def inspect_data(data: str, rows: int = 3) -> dict[str, Any]:
    """Open data as a run would and describe it.

    Args:
        data: what `--data` takes.
        rows: how many training rows to show.

    Returns:
        JSON: rows; how many train, are held out, and are left out because they repeat another; the columns with their
        kinds, and the first training rows.

    Raises:
        BadData: nothing there, or data that cannot be trained on.
    """
    bed = data in beds() and not Path(data).exists()
    source = load_bed(data).data(0)["train"] if bed else open_data(data)
    split = hold_out(source)
    train = split.train
    first = train.take(torch.arange(min(rows, len(train))))
    shown = [{name: _shown(column[i]) for name, column in first.items()} for i in range(min(rows, len(train)))]
    return {
        "data": data,
        "fingerprint": source.fingerprint,
        "rows": len(source),
        "train": len(train),
        "held_out": len(split.held),
        "repeated": split.repeated,
        "columns": {name: _kind(column) for name, column in first.items()},
        "first": shown,
    }


def _kind(column: Any) -> str:
    """The kind of a column in words."""
    if isinstance(column, Tensor):
        return f"{str(column.dtype).removeprefix('torch.')} {tuple(column.shape[1:])}"
    return type(column[0]).__name__ if len(column) else "empty"


def _shown(value: Any) -> Any:
    """One value, shortened where it is long."""
    if isinstance(value, Tensor):
        return value.tolist() if value.numel() <= 8 else f"{_kind(value[None])} in [{value.min():g}, {value.max():g}]"
    return value if not isinstance(value, str) or len(value) <= 400 else f"{value[:400]}... ({len(value)} characters)"
