"""Rebuild the teacher of `digits_drawn`: `python -m limbeck.assets.build_digits_drawn` (a minute on one core)."""

from __future__ import annotations

import time

import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck.beds.digits import CLASSES
from limbeck.beds.digits_drawn import TEACHER, PictureField, drawn_splits, painter

__all__ = ["main", "train"]


def train(steps: int = 12_000, batch_size: int = 128) -> PictureField:
    """Match the flow of the 1000 pictures, a tenth of them without their class.

    Args:
        steps: optimiser steps.
        batch_size: rows a step.

    Returns:
        A moving average of the net, in evaluation mode.
    """
    rows, start = drawn_splits()["train"].columns, time.monotonic()
    net = painter(0)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.05)
    torch.manual_seed(0)
    for step in range(steps):
        index = torch.randint(len(rows["y"]), (batch_size,))
        x0, y = rows["x"][index], rows["y"][index]
        y = torch.where(torch.rand(batch_size) < 0.1, CLASSES, y)
        t, noise = torch.randn(batch_size).sigmoid(), torch.randn_like(x0)
        level = t.view(-1, 1, 1, 1)
        batch = {"x": (1 - level) * x0 + level * noise, "t": t, "y": y}
        loss = (net(batch, frozenset({"velocity"}))["velocity"] - (noise - x0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(net)
        if step % 1000 == 999:
            print(f"step {step + 1:5d}  loss {loss.item():.4f}  {time.monotonic() - start:.0f} s", flush=True)
    return average.module.eval()  # type: ignore[return-value]


def main() -> None:
    """Train the teacher and write its weights."""
    torch.set_num_threads(1)
    net = train()
    TEACHER.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, TEACHER)


if __name__ == "__main__":
    main()
