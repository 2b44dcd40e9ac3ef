"""What `torch.compile` makes of a step: nets compiled in place, against the same step with nets as they were written.

A net that a source hands over may be compiled in place, `net.compile()` at the end of the factory: its weights keep
their names, so runs resume and students are saved as ever, and copies and moving averages of it are compiled too. The
steps are those of *Few-step distillation*; both runs take the same states, and *losses differ by* says how far they are
apart in the last step, relative to the loss. *Compiling* is what the first update took beyond a later one, in seconds
of the processor with those of the C++ compiler, from an empty cache: a run must save that before it gains anything.

Derivatives along a direction are not compiled: PyTorch does not trace a compiled function inside `torch.func.jvp`, so a
net that is asked for one runs there as it was written, and the exact average velocity gains nothing.
"""

from __future__ import annotations

import itertools
import logging
import os
import statistics
import time
import warnings
from collections.abc import Mapping

import torch
from torch._inductor.utils import fresh_cache
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.fields import by_loop
from benchmarks.nets import data_of
from limbeck.progress import Progress

REPEATS = 5
THREADS = 1
CASES = (
    ("perceptron", "consistency"), ("perceptron", "average velocity, exact"), ("transformer", "consistency"),
    ("transformer", "generator"), ("UNet", "consistency"),
)  # fmt: skip


class Heard(Progress):
    """Remembers the losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def show(self, figures: Mapping[str, float]) -> None:
        self.losses.append(next(v for k, v in figures.items() if k.endswith("/loss")))


def spent() -> float:
    """Seconds of the processor, those of ended children included."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def run(name: str, step: str, compiled: bool) -> tuple[float, float, float]:
    """Seconds of an update, of the first two beyond it, and the last loss."""
    ticks, heard = [(time.process_time(), spent())], Heard()
    hook = register_optimizer_step_post_hook(lambda *_: ticks.append((time.process_time(), spent())))
    torch.compiler.reset()
    with fresh_cache(), torch._inductor.config.patch(compile_threads=1):
        by_loop(name, step, data_of(name), REPEATS + 2, compiled, heard)
    hook.remove()
    later = statistics.median(b[0] - a[0] for a, b in itertools.pairwise(ticks[2:]))
    return later, ticks[2][1] - ticks[0][1] - 2 * later, heard.losses[-1]


def table() -> list[str]:
    """The rows of the table: net and step, milliseconds of each, ratio, seconds of compiling, difference of losses."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    heading = ["net", "step", "as written", "compiled", "ratio", "compiling, CPU s", "losses differ by"]
    out = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for name, step in CASES:
        (plain, _, a), (quick, wait, b) = (run(name, step, compiled) for compiled in (False, True))
        cells = [name, step, f"{1e3 * plain:.0f} ms", f"{1e3 * quick:.0f} ms", f"{quick / plain:.2f}"]
        out.append(f"| {' | '.join([*cells, f'{wait:.0f}', f'{abs(a - b) / abs(a):.0e}'])} |")
    return out
