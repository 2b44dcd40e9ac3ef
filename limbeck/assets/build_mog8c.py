"""Rebuild the teacher of the bed `mog8c_learnt`: `python -m limbeck.assets.build_mog8c` (5 seconds on one core)."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from limbeck.batch import Batch
from limbeck.beds._nets import PointField, fresh
from limbeck.beds.mog8c import bed
from limbeck.beds.mog8c_learnt import CLASSES, TEACHER
from limbeck.rng import Rng

__all__ = ["main", "train"]


def train(steps: int = 3_000, batch_size: int = 256, lr: float = 3e-3) -> PointField:
    """Train the teacher by flow matching on fresh data, a tenth of it without its class.

    Args:
        steps: optimiser steps.
        batch_size: rows a step.
        lr: the top rate of Adam, which falls to 0 with a cosine.

    Returns:
        The net.
    """
    net, data = fresh(0, 2, classes=CLASSES), bed.data(1_000_003)["test"]
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        rng = Rng(("mog8c teacher", step), torch.arange(batch_size))
        rows = Batch(data.take(rng.integers("row", len(data))), rng=rng)
        t, e = rng.uniform("t"), rng.normal("e", 2)
        y = torch.where(rng.uniform("label") < 0.1, CLASSES, rows.y)
        x = (1 - t[:, None]) * rows.x + t[:, None] * e
        v = net(rows.with_(x=x, t=t, y=y), frozenset({"velocity"}))["velocity"]
        optimiser.zero_grad()
        (v - (e - rows.x)).square().mean().backward()
        optimiser.step()
        schedule.step()
    return net


def main() -> None:
    """Train the teacher, write its weights, and print how far its fields are from the exact ones."""
    torch.set_num_threads(1)
    net, truth = train(), bed.players["oracle"](0)
    TEACHER.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, TEACHER)
    rng = Rng(("mog8c check",), torch.arange(2_000))
    rows = Batch(bed.data(0)["test"].take(torch.arange(2_000)), rng=rng)
    x = 0.5 * rows.x + 0.5 * rng.normal("e", 2)
    for name, y in (("class", rows.y), ("none", torch.full_like(rows.y, CLASSES))):
        seen = rows.with_(x=x, t=torch.full((2_000,), 0.5), y=y)
        with torch.no_grad():
            found, exact = (f(seen, frozenset({"velocity"}))["velocity"] for f in (net, truth))
        off, size = (v.square().sum(1).mean().sqrt() for v in (found - exact, exact))
        print(f"{name}: {off:.3f} off, of {size:.3f}")


if __name__ == "__main__":
    main()
