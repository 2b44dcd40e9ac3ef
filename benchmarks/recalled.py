"""What a cache of the teacher saves: a training step with its targets from disk against one that asks the teacher.

Students of 4 layers and width 128, teachers of 8 layers and several widths, 4 rows of 128 tokens of which 32 are the
prompt, vocabulary 32,000, forward KL, AdamW; the cache holds the 64 likeliest tokens. *Labels* is the same student's
step on labels alone (cross-entropy, no teacher): what a step from the cache would take if its targets cost nothing.
*Of it* is how near the cache comes to that. *Ceiling* is what a step could save in operations,
1 + F_teacher / (3 F_student), output matrices included; it would be reached if a processor did the products of a small
student at the rate of those of a large teacher.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.step import LR, PROMPT, ROWS, TOKENS, llama, rows
from limbeck.adapters.cache import TargetCache
from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.recalled import Recalled, about_teacher
from limbeck.data import Table
from limbeck.loop import Loop, Options
from limbeck.parts.optimizer import adamw
from limbeck.parts.sparse import likeliest
from limbeck.parts.token import cross_entropy, forward_kl
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import frozen, learning
from limbeck.run import Run

REPEATS = 3
THREADS = 1
VOCABULARY, K, STEPS = 32_000, 64, 8
WIDTHS = (256, 512, 1024)


def operations(lm: Any) -> float:
    """Of a forward pass, a token: two for every weight of the layers, and of the output matrix where targets are."""
    layers = sum(p.numel() for name, p in lm.named_parameters() if "layers" in name)
    return 2 * layers + 2 * lm.lm_head.weight.numel() * (TOKENS - PROMPT) / TOKENS


def seconds(teacher: nn.Module | None) -> float:
    """Median seconds of the processor between two updates, on labels without a teacher; the first is left out."""
    at = torch.full((ROWS,), PROMPT)
    mask = (torch.arange(TOKENS) >= PROMPT).expand(ROWS, -1).contiguous()
    data = Table({"tokens": rows(VOCABULARY), "mask": mask, "length": at * 0 + TOKENS, "prompt": at})
    facts = dict(title="", paper="", family="", kind="", learns="", teacher="")
    loss, others = (forward_kl(), {"teacher": frozen()}) if teacher is not None else (cross_entropy(), {})
    recipe = Recipe(
        key="step", players={"student": learning(adamw(lr=LR, weight_decay=0.0)), **others},
        stages=(Learn("fit", (Phase("student", ("student",), loss),), steps=STEPS, batch_size=ROWS),), **facts,
    )  # fmt: skip
    ticks: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ticks.append(time.process_time()))
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder) / "run", {"key": "step"}) as run:
        nets: dict[str, nn.Module] = {"student": CausalLM(llama(VOCABULARY, 128, 4, 0))}
        nets |= {} if teacher is None else {"teacher": teacher}
        Loop(recipe, nets, {"train": data}, Options(), run).execute()
    hook.remove()
    return statistics.median(b - a for a, b in itertools.pairwise(ticks))


def table() -> list[str]:
    """The rows of the table: the teacher's width, milliseconds of the steps, what was saved of what can be."""
    out = ["| teacher | asked, ms | from the cache, ms | labels, ms | ratio | at most | of it | ceiling |"]
    out.append("|---|---|---|---|---|---|---|---|")
    student = operations(llama(VOCABULARY, 128, 4, 0))
    for width in WIDTHS:
        net = CausalLM(llama(VOCABULARY, width, 8, 1)).eval()
        with tempfile.TemporaryDirectory() as folder:
            recalled = Recalled(TargetCache(Path(folder) / "cache", about_teacher(net, "teacher", likeliest(k=K))), net)
            runs = [(seconds(net), seconds(recalled), seconds(None)) for _ in range(REPEATS)]
        asked, read, labels = (statistics.median(run[i] for run in runs) for i in range(3))
        times = [f"{1e3 * each:.0f}" for each in (asked, read, labels)]
        saved = [f"{asked / read:.2f}", f"{asked / labels:.2f}", f"{labels / read:.2f}"]
        cells = [f"8 x {width}", *times, *saved, f"{1 + operations(net.lm) / (3 * student):.2f}"]
        out.append(f"| {' | '.join(cells)} |")
    return out
