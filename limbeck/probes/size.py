"""What a player costs: weights, bytes, speed, memory. Every probe here works on any net of any kind.

Speed is wall time: compare figures of one machine at rest, and give the median of several runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.rollout import sample
from limbeck.players import Player, Players

__all__ = ["decoding_speed", "parameters", "peak_memory", "throughput", "weight_bytes"]


def _tensors(player: Player) -> list[Tensor]:
    """The weights and saved buffers of a player; tied ones once.

    Raises:
        BadValue: a player without a net of its own.
    """
    if player.module is None:
        raise BadValue(f"the player {player.name!r} has no net of its own, so it has no size")
    return list({id(t): t for t in player.module.state_dict(keep_vars=True).values()}.values())


@part
def parameters(players: Players, data: Mapping[str, Source]) -> float:
    """The number of weights of the student, tied ones counted once; buffers are no weights.

    sum_w |w|, over the tensors w of weights, with |w| the number of their entries

    Raises:
        BadValue: the student has no net of its own.
    """
    return float(sum(t.numel() for t in _tensors(players["student"]) if isinstance(t, torch.nn.Parameter)))


@part
def weight_bytes(players: Players, data: Mapping[str, Source]) -> float:
    """The bytes of the student's weights and buffers on disk in their dtypes, tied ones once, without headers.

    sum_w |w| bytes(w), over the tensors w of weights and buffers

    Raises:
        BadValue: the student has no net of its own.
    """
    return float(sum(t.numel() * t.element_size() for t in _tensors(players["student"])))


def _test_rows(player: Player, data: Mapping[str, Source], rows: int) -> Batch:
    """Rows of the test split, round and round if it has fewer, where the player's weights are."""
    batch = Batch(dict(data["test"].take(torch.arange(rows) % len(data["test"]))))
    where = next((t.device for t in _tensors(player)), batch.device)
    return batch.to(where)


def _rate(work: Callable[[], float], runs: int) -> float:
    """The median over runs of what was done in a second, after one run that does not count."""
    work()
    rates = []
    for _ in range(runs):
        start = time.perf_counter()
        done = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        rates.append(done / (time.perf_counter() - start))
    return statistics.median(rates)


@part
@torch.no_grad()
def throughput(
    players: Players, data: Mapping[str, Source], *, want: str = "logits", rows: int = 64, runs: int = 5
) -> float:
    """The rows of the test split that the student answers in a second.

    Args:
        players: the player "student".
        data: the splits.
        want: the answer that is asked for.
        rows: rows of a forward.
        runs: forwards that are timed; the median counts.

    Raises:
        BadValue: the student has no net of its own.
    """
    batch = _test_rows(players["student"], data, rows)

    def answered() -> float:
        players["student"](batch.with_(), want)
        return rows

    return _rate(answered, runs)


@part(higher=True)
def decoding_speed(
    players: Players, data: Mapping[str, Source], *, rows: int = 16, new_tokens: int = 16, runs: int = 3
) -> float:
    """The tokens that a student language model samples in a second, ended rows included.

    Args:
        players: the player "student".
        data: the splits, with the columns tokens and prompt.
        rows: prompts that are continued side by side.
        new_tokens: the most tokens of a continuation.
        runs: samplings that are timed; the median counts.

    Raises:
        BadValue: the student has no net of its own.
    """
    student = players["student"]
    batch = _test_rows(student, data, rows)

    def sampled() -> float:
        _, length_B = sample(student, batch.tokens, batch.prompt, batch.rng, max_new_tokens=new_tokens)
        return float((length_B - batch.prompt).sum())

    return _rate(sampled, runs)


class _Live(TorchDispatchMode):
    """Follows the tensors that operations make, and the most bytes of them alive at once; views of `given` are free."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.given = {t.untyped_storage()._cdata for t in given}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and look at what is alive after it."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.given:
                    ref = StorageWeakRef(storage)
                    self.alive[ref.cdata] = ref, storage.nbytes()
        self.alive = {key: kept for key, kept in self.alive.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


@part
@torch.no_grad()
def peak_memory(players: Players, data: Mapping[str, Source], *, want: str = "logits", rows: int = 64) -> float:
    """The most bytes alive while the student answers: its weights and every tensor that operations hand on.

    What an operation needs inside itself is not seen, so figures are equal on all devices and from run to run.

    Args:
        players: the player "student".
        data: the splits.
        want: the answer that is asked for.
        rows: rows of the forward.

    Raises:
        BadValue: the student has no net of its own.
    """
    batch = _test_rows(players["student"], data, rows)
    given = [c for c in batch.columns.values() if isinstance(c, Tensor)]
    with _Live(_tensors(players["student"]) + given) as live:
        players["student"](batch, want)
    return weight_bytes.fn(players, data) + live.peak
