"""limbeck distils anything into something smaller, faster or safer, and proves that it worked."""

from __future__ import annotations

import importlib
import logging
from typing import Any

# imported for low-rank weights, it warns of faster kernels that are not there
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__all__ = [
    "Arm",
    "Batch",
    "Bed",
    "Claim",
    "Learn",
    "Make",
    "Measure",
    "Part",
    "Phase",
    "Players",
    "Recipe",
    "Repeat",
    "Solve",
    "Sub",
    "Table",
    "Tune",
    "compare",
    "distill",
    "less",
    "load",
    "load_bed",
    "more",
    "terms",
    "verify",
    "within",
]

_HOME = {
    "limbeck.api": ("compare", "distill", "verify"),
    "limbeck.batch": ("Batch",),
    "limbeck.beds": ("Bed", "load_bed"),
    "limbeck.data": ("Table",),
    "limbeck.index": ("load",),
    "limbeck.part": ("Part", "terms"),
    "limbeck.players": ("Players",),
}


def __getattr__(name: str) -> Any:
    # loaded on first use: the index and the command line start without torch
    if name not in __all__:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    home = next((module for module, names in _HOME.items() if name in names), "limbeck.recipe")
    return getattr(importlib.import_module(home), name)
