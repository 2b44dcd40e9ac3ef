"""Cost: what a model takes on this machine, in seconds and bytes."""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.profiler import profile

from limbeck.errors import BadValue

__all__ = ["Cost", "Speed", "bytes_on_disk", "measure_cost", "measure_memory", "measure_speed"]


@dataclass(frozen=True)
class Speed:
    """Seconds a call takes: the median and the quartiles over `repeats` calls."""

    median: float
    low: float
    high: float
    repeats: int


@dataclass(frozen=True)
class Cost:
    """What a model costs on this machine.

    Args:
        parameters: the number of weights.
        weight_bytes: bytes of weights and buffers in memory.
        disk: bytes of its files.
        speed: seconds for one call on `rows` rows.
        rows: rows of the timed call.
        memory: bytes by which memory grew during a call, above the weights.
        memory_kind: how that was measured.
    """

    parameters: int
    weight_bytes: int
    disk: int | None = None
    speed: Speed | None = None
    rows: int = 0
    memory: int | None = None
    memory_kind: str = ""


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_speed(fn: Callable[[], Any], repeats: int = 9, *, warmup: int = 2) -> Speed:
    """Time a call on this machine; accelerators are waited for.

    Args:
        fn: the call.
        repeats: timed calls.
        warmup: calls before them that are not timed.

    Returns:
        The median in seconds, with the quartiles.

    Raises:
        BadValue: no repeats.

    Example:
        >>> measure_speed(lambda: time.sleep(0.001), 3).median >= 0.001
        True
    """
    if repeats < 1:
        raise BadValue(f"measure_speed needs at least one repeat, got {repeats}")
    for _ in range(warmup):
        fn()
    seconds = []
    for _ in range(repeats):
        _synchronise()
        start = time.perf_counter()
        fn()
        _synchronise()
        seconds.append(time.perf_counter() - start)
    low, median, high = map(float, np.quantile(seconds, [0.25, 0.5, 0.75]))
    return Speed(median, low, high, repeats)


def measure_memory(fn: Callable[[], Any]) -> tuple[int, str]:
    """Measure by how much memory grows while a call runs, at its peak.

    max_t sum_{i <= t} n_i, where n_i > 0 bytes are allocated and n_i < 0 are freed, in order; what was held before the
    call counts neither way.

    Args:
        fn: the call.

    Returns:
        Bytes, and whose they are: the allocator's of the accelerator where there is one, else of PyTorch's on the CPU:
        tensors, and what operators need in between. What NumPy and libraries beneath PyTorch take for themselves is not
        seen.

    Example:
        >>> x = torch.ones(256, 256)
        >>> measure_memory(lambda: (x @ x) @ x)[0] == 2 * 256 * 256 * 4
        True
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fn()
        _synchronise()
        return torch.cuda.max_memory_allocated() - before, "peak of the CUDA allocator"
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler says on stderr that it starts and stops
    with profile(profile_memory=True) as seen:
        fn()
    assert seen.kineto_results is not None
    events = sorted((e for e in seen.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    held = itertools.accumulate((e.nbytes() for e in events), initial=0)
    return max(held), "peak of PyTorch's CPU allocator"


def bytes_on_disk(path: Path) -> int:
    """The size of a file, or of all files below a directory."""
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())


def measure_cost(
    module: nn.Module, fn: Callable[[], Any], rows: int, *, path: Path | None = None, repeats: int = 9
) -> Cost:
    """Measure what a model costs on this machine.

    Args:
        module: the model.
        fn: a call that makes it answer `rows` rows.
        rows: the rows of that call.
        path: where it is saved.
        repeats: timed calls.
    """
    memory, kind = measure_memory(fn)
    held = [*module.parameters(), *module.buffers()]
    return Cost(
        parameters=sum(p.numel() for p in module.parameters()),
        weight_bytes=sum(t.numel() * t.element_size() for t in held),
        disk=bytes_on_disk(path) if path is not None else None,
        speed=measure_speed(fn, repeats),
        rows=rows,
        memory=memory,
        memory_kind=kind,
    )
