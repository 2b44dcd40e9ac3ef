"""Several processes that compute what one would: shares of a batch, sums over processes, and being interrupted."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from limbeck.errors import BadValue

__all__ = ["Interrupt", "anywhere", "from_all", "from_main", "share", "sum_counts", "sum_gradients"]

BUCKET = 25 * 2**20  # bytes of gradient sent at a time, as PyTorch's DDP does


def share(rows: int, accelerator: Accelerator) -> slice:
    """The rows of a global batch that this process computes: a contiguous share.

    Args:
        rows: rows of the global batch.
        accelerator: says which process this is, and of how many.

    Returns:
        A slice of the rows; shares differ by one row at most.

    Raises:
        BadValue: there are more processes than rows.
    """
    n, i = accelerator.num_processes, accelerator.process_index
    if rows < n:
        raise BadValue(f"a batch of {rows} rows cannot be shared by {n} processes; raise batch_size to at least {n}")
    return slice(rows * i // n, rows * (i + 1) // n)


def sum_counts(counts: Mapping[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Add named numbers over all processes; every process must have the same names."""
    if accelerator.num_processes == 1:
        return dict(counts)
    numbers = torch.tensor(list(counts.values()), dtype=torch.float64, device=accelerator.device)
    torch.distributed.all_reduce(numbers)
    return dict(zip(counts, numbers.tolist(), strict=True))


def anywhere(accelerator: Accelerator, **said: bool) -> dict[str, bool]:
    """Whether any process says so, name by name; all processes must ask together and get the same answers."""
    return {name: n > 0 for name, n in sum_counts({k: float(v) for k, v in said.items()}, accelerator).items()}


def from_main(value: Any, accelerator: Accelerator) -> Any:
    """Give every process what the first one has."""
    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def from_all(value: Any, accelerator: Accelerator) -> list[Any]:
    """Give every process what each of them has, in their order."""
    return list(gather_object([value])) if accelerator.num_processes > 1 else [value]


@torch.no_grad()
def sum_gradients(params: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Add gradients over all processes, in place.

    A weight that got a gradient in some processes only (their rows alone reached it) counts as zero in the others; one
    that got none anywhere keeps none, so that the optimiser passes it over as it would in a single process.

    Args:
        params: the weights of one player, in the same order in every process.
        accelerator: says how many processes there are; with one, nothing happens.
    """
    if accelerator.num_processes == 1:
        return
    params = [p for p in params if p.requires_grad]
    reached = torch.tensor([p.grad is not None for p in params], dtype=torch.int32, device=accelerator.device)
    torch.distributed.all_reduce(reached, torch.distributed.ReduceOp.MAX)
    used = [p for p, hit in zip(params, reached.tolist(), strict=True) if hit]
    for p in used:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    for bucket in _buckets([p.grad for p in used if p.grad is not None]):
        flat = torch.cat([g.flatten() for g in bucket])
        torch.distributed.all_reduce(flat)
        pieces = flat.split([g.numel() for g in bucket])
        torch._foreach_copy_(bucket, [piece.view_as(g) for g, piece in zip(bucket, pieces, strict=True)])


def _buckets(grads: list[Tensor]) -> Iterable[list[Tensor]]:
    """Gradients of one dtype in groups of about `BUCKET` bytes."""
    bucket: list[Tensor] = []
    size = 0
    for grad in grads:
        if bucket and (size > BUCKET or grad.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(grad)
        size += grad.nbytes
    if bucket:
        yield bucket


class Interrupt:
    """Turns the first Ctrl-C, or a termination signal, into a stop after the current step; the second is immediate.

    Args:
        seconds: time after which it asks to stop by itself; 0 for never.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._asked = False
        self._deadline = time.monotonic() + seconds if seconds else math.inf
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    @property
    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        return self._asked or time.monotonic() > self._deadline
