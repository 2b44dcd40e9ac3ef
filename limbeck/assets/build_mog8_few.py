"""Rebuild the few-step student of `mog8_moved`: `python -m limbeck.assets.build_mog8_few` (20 s on one core)."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from limbeck.beds import load_bed
from limbeck.beds._nets import PointField, fresh
from limbeck.beds.mog8_moved import STUDENT

__all__ = ["main", "train", "trajectories"]


def trajectories(rows: int, steps: int = 128) -> torch.Tensor:
    """Carry noise along the exact flow with Heun's method.

    Args:
        rows: trajectories.
        steps: of the solver, even in t.

    Returns:
        (steps + 1, rows, 2) states, from noise to data.
    """
    field = load_bed("mog8").players["oracle"](0)

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        found: torch.Tensor = field({"x": x, "t": torch.full((rows,), t)}, frozenset({"velocity"}))["velocity"]
        return found

    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    states, h = [x], 1 / steps
    for i in range(steps):
        t = 1 - i * h
        v = velocity(x, t)
        x = x - h / 2 * (v + velocity(x - h * v, t - h))
        states.append(x)
    return torch.stack(states)


def train(steps: int = 5_000, batch_size: int = 256) -> PointField:
    """Learn where the flow ends from any place on its way.

    Args:
        steps: optimiser steps.
        batch_size: rows a step.

    Returns:
        The net, a consistency function.
    """
    states, net = trajectories(16_384), fresh(0, 2)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        row = torch.randint(states.shape[1], (batch_size,), generator=rng)
        when = torch.randint(len(states) - 1, (batch_size,), generator=rng)
        t = 1 - when / (len(states) - 1)
        x0 = net({"x": states[when, row], "t": t}, frozenset({"x0"}))["x0"]
        loss = (x0 - states[-1, row]).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def main() -> None:
    """Train the student and write its weights."""
    torch.set_num_threads(1)
    net = train()
    STUDENT.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, STUDENT)


if __name__ == "__main__":
    main()
