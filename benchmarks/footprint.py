"""What memory a step of few-step distillation takes: ours and by hand, against what must be kept between steps.

The steps are those of *Few-step distillation*. *Kept* are the weights of all nets of a step, and the gradients and the
two moments of Adam of the one that learns; what the peak has beyond that is the activations of a batch, the work space
of the operations, and what the allocator does not give back. Peaks are those of two updates, beyond what was there
before the nets were made. They need /proc, so this runs on Linux only.
"""

from __future__ import annotations

import logging
import statistics
import warnings
from functools import partial

from torch import Tensor

from benchmarks.fields import WORKS, by_hand, by_loop
from benchmarks.nets import data_of, made
from benchmarks.step import cost

REPEATS = 3
THREADS = 1
NETS = ("UNet", "transformer")
PLAYERS = {"consistency": 3, "generator": 3, "critic": 2, "average velocity, exact": 1,
           "average velocity, difference": 1}  # fmt: skip
MIB = 2**20


def kept(name: str, step: str) -> float:
    """MiB of weights, gradients and moments."""
    size = sum(p.nbytes for p in made(name, 0).parameters())
    return (PLAYERS[step] + 3) * size / MIB


def hand(name: str, step: str, data: Tensor) -> list[float]:
    """Two updates by hand."""
    once = by_hand(name, step, data)
    once()
    once()
    return []


def loop(name: str, step: str, data: Tensor) -> list[float]:
    """Two updates by the loop."""
    by_loop(name, step, data, 2)
    return []


def table() -> list[str]:
    """The rows of the table: net and step, MiB that are kept, and the peak of each, also as a multiple of that."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    heading = ["net", "step", "kept, MiB", "by hand, peak MiB", "of kept", "by the loop, peak MiB", "of kept"]
    out = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for name in NETS:
        data = data_of(name)
        for step in WORKS:
            runs = [[1024 * cost(partial(work, name, step, data))[1] for work in (hand, loop)] for _ in range(REPEATS)]
            peaks, least = [statistics.median(r[i] for r in runs) for i in (0, 1)], kept(name, step)
            cells = [text for peak in peaks for text in (f"{peak:.0f}", f"{peak / least:.1f}")]
            out.append(f"| {' | '.join([name, step, f'{least:.0f}', *cells])} |")
    return out
