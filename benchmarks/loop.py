"""What the loop costs: a step of it against the same step written by hand in plain PyTorch.

Both take the same batches from memory, evaluate teacher and student, form the mean squared difference of their logits,
and step Adam. The hand-written step reads its loss once a step, as the loop does to log it. Seconds are those of the
processor.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.adapters.modules import Plain
from limbeck.data import Table, rows_of_step
from limbeck.loop import Loop
from limbeck.part import terms
from limbeck.parts.classification import mse_logits
from limbeck.parts.optimizer import adam
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import frozen, learning

REPEATS = 5
THREADS = 1


def net(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 10))


def by_hand(x: Tensor, width: int, steps: int, batch: int) -> None:
    student, teacher = net(width, 0), net(width, 1).requires_grad_(False)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3, fused=True)
    for step in range(steps):
        rows = x[rows_of_step(len(x), step, batch, 0)]
        loss = (student(rows) - teacher(rows)).square().mean(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


def by_loop(x: Tensor, width: int, steps: int, batch: int) -> None:
    facts = dict(title="", paper="", family="", kind="", learns="", teacher="")
    phase = Phase("student", ("student",), terms(match=mse_logits()))
    recipe = Recipe(
        key="step", players={"student": learning(adam(lr=1e-3)), "teacher": frozen()},
        stages=(Learn("fit", (phase,), steps=steps, batch_size=batch),), **facts,
    )  # fmt: skip
    nets = {"student": Plain(net(width, 0)), "teacher": Plain(net(width, 1))}
    Loop(recipe, nets, {"train": Table({"x": x})}).execute()


def seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def table() -> list[str]:
    """The rows of the table: size, milliseconds by hand and by the loop, overhead."""
    x = torch.randn(4096, 32)
    out = ["| step | by hand | by the loop | overhead | ratio |", "|---|---|---|---|---|"]
    for width, batch, steps in ((64, 64, 600), (512, 512, 100), (2048, 1024, 20)):
        for work in (by_hand, by_loop):
            work(x, width, 3, batch)
        pairs = [(seconds(partial(by_hand, x, width, steps, batch)), seconds(partial(by_loop, x, width, steps, batch)))
                 for _ in range(REPEATS)]  # fmt: skip
        hand, loop = (1e3 * statistics.median(p[i] for p in pairs) / steps for i in (0, 1))
        ratio = statistics.median(b / a for a, b in pairs)
        cells = (f"width {width}, batch {batch}", f"{hand:.3f} ms", f"{loop:.3f} ms", f"{1e3 * (loop - hand):.0f} us")
        out.append(f"| {' | '.join(cells)} | {ratio:.3f} |")
    return out
