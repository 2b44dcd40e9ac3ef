"""What a step of flow matching costs: ours against the `flow_matching` library of Meta.

Both train the same nets by Adam on the same batches, levels and noise: after each update of ours, its path (affine,
conditional optimal transport) samples the same points and the mean squared error is taken as its examples do; levels
and noise it draws too, and is then given ours, so that the losses can be compared step by step. Time runs the other way
there, and is turned round. Seconds are those of the processor; *least* is one forward with its gradients.

Needs flow_matching; where it cannot be imported, nothing is measured.
"""

from __future__ import annotations

import importlib.util
import logging
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.compiled import Heard
from benchmarks.fields import ADAM, WARM, evaluations, in_turns
from benchmarks.nets import NETS, Asked, data_of, made
from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.loop import Loop
from limbeck.part import part
from limbeck.parts.flow_matching import flow_matching, path_states, path_weight, straight_path
from limbeck.players import Players
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, learning

REPEATS = 9
THREADS = 1
NOTED: list[Batch] = []


@part
def noted_states(players: Players, batch: Batch) -> Batch:
    """The states of flow matching, which the peer is given too."""
    NOTED[:] = [path_states()(players, batch)]
    return NOTED[0]


def ours(name: str, data: Tensor, heard: Heard) -> None:
    """Train by the loop."""
    facts = dict(title="", paper="", family="", kind="", learns="", teacher="")
    players = {"student": learning(ADAM), "path": built(straight_path(sigma_min=0.0))}
    phase = Phase("student", ("student",), path_weight() * flow_matching(), noted_states())
    stages = (Learn("fit", (phase,), steps=REPEATS + WARM, batch_size=NETS[name][1][0]),)
    recipe = Recipe(key="step", players=players, stages=stages, **facts)
    Loop(recipe, {"student": Asked(made(name, 0))}, {"train": Table({"x": data})}, progress=heard).execute()


def theirs(name: str, losses: list[float]) -> Callable[[], None]:
    """A step of the peer, to be called again and again."""
    peer: Any = __import__("flow_matching.path", fromlist=["path"])
    scheduler: Any = __import__("flow_matching.path.scheduler", fromlist=["scheduler"])
    path, net = peer.AffineProbPath(scheduler=scheduler.CondOTScheduler()), made(name, 0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)

    def once() -> None:
        batch = NOTED[0]
        x_1 = batch.real
        x_0, t = torch.randn_like(x_1), torch.rand(len(x_1))
        x_0, t = batch.velocity + x_1, 1 - batch.t
        sample = path.sample(t=t, x_0=x_0, x_1=x_1)
        velocity = -net(sample.x_t, 1 - sample.t, torch.zeros_like(t))
        loss = (velocity - sample.dx_t).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return once


def table() -> list[str]:
    """The rows of the table: net, milliseconds of each, ratio, and how far the losses are apart."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if not importlib.util.find_spec("flow_matching"):
        return ["flow_matching cannot be imported here, so nothing is measured."]
    heading = ["net", "ours", "flow_matching", "least", "ours / theirs", "losses differ by"]
    out = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for name, (_, shape) in NETS.items():
        data, heard, losses = data_of(name), Heard(), []  # type: tuple[Tensor, Heard, list[float]]
        both = evaluations(name, data)[1]
        runs = in_turns(partial(ours, name, data, heard), [theirs(name, losses), both])
        size = torch.Size(shape[1:]).numel()
        apart = max(abs(a / size - b) / b for a, b in zip(heard.losses, losses, strict=True))
        assert apart < 1e-3, f"{name}: the losses differ by {apart:.1e}"
        cells = [f"{1e3 * statistics.median(r[i] for r in runs):.3g} ms" for i in range(3)]
        ratio = statistics.median(r[0] / r[1] for r in runs)
        out.append(f"| {' | '.join([name, *cells, f'{ratio:.3f}', f'{apart:.0e}'])} |")
    return out
