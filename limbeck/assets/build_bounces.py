"""Rebuild the teacher of `bounces`: `python -m limbeck.assets.build_bounces` (two minutes on one core)."""

from __future__ import annotations

import time

import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck.beds.bounces import CHUNK, FRAMES, TEACHER, ClipField, bouncing, filmed

__all__ = ["main", "train"]


def train(steps: int = 5_000, batch_size: int = 96) -> ClipField:
    """Match the flow of clips: whole and at one level at odd steps, chunk by chunk at levels of their own at even ones.

    Args:
        steps: optimiser steps.
        batch_size: clips a step, drawn afresh.

    Returns:
        A moving average of the net, in evaluation mode.
    """
    net, start = filmed(0), time.monotonic()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.05)
    torch.manual_seed(0)
    for step in range(steps):
        x0 = bouncing(batch_size, 1_000_000 + step)
        whole = step % 2 == 1
        net.chunk = 0 if whole else CHUNK
        t = torch.rand(batch_size, 1 if whole else FRAMES // CHUNK)
        t = t.repeat_interleave(FRAMES if whole else CHUNK, 1)
        noise, level = torch.randn_like(x0), t[..., None]
        v = net({"x": (1 - level) * x0 + level * noise, "t": t}, frozenset({"velocity"}))["velocity"]
        loss = (v - (noise - x0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(net)
        if step % 500 > 497:
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
