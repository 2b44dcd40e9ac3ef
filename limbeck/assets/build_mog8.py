"""Rebuild the teacher of the bed mog8_learnt: `python -m limbeck.assets.build_mog8` (20 seconds on one core)."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from limbeck.beds._mixture import ExactField
from limbeck.beds._nets import PointField, fresh
from limbeck.beds.mog8 import bed
from limbeck.beds.mog8_learnt import TEACHER

__all__ = ["excess", "main", "train"]


def train(steps: int = 4000, batch_size: int = 512) -> PointField:
    """Train the teacher by flow matching on fresh samples, with one-cycle AdamW.

    Args:
        steps: of the optimiser.
        batch_size: samples a step.

    Returns:
        The net, in evaluation mode.
    """
    oracle = bed.players["oracle"](0)
    assert isinstance(oracle, ExactField)
    net, rng = fresh(0, 2), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for step in range(steps):
        x0, e = oracle.mixture.sample(batch_size, step)[0], torch.randn(batch_size, 2, generator=rng)
        t = torch.rand(batch_size, generator=rng)
        x = (1 - t)[:, None] * x0 + t[:, None] * e
        optimiser.zero_grad()
        (net({"x": x, "t": t}, frozenset({"velocity"}))["velocity"] - (e - x0)).square().mean().backward()
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def excess(net: torch.nn.Module, rows: int = 20_000) -> float:
    """How far a field is from the exact one at noised data: mean |v - v*|^2 over even levels.

    Args:
        net: answers "velocity".
        rows: data.

    Returns:
        The excess, in squared units of the data.
    """
    oracle = bed.players["oracle"](0)
    assert isinstance(oracle, ExactField)
    rng = torch.Generator().manual_seed(1)
    x0, e, t = oracle.mixture.sample(rows, 1)[0], torch.randn(rows, 2, generator=rng), torch.rand(rows, generator=rng)
    batch = {"x": (1 - t)[:, None] * x0 + t[:, None] * e, "t": t}
    answers = [field(batch, frozenset({"velocity"}))["velocity"] for field in (net, oracle)]
    return float((answers[0] - answers[1]).square().sum(1).mean())


def main() -> None:
    """Train the teacher, write its weights, and print its excess."""
    torch.set_num_threads(1)
    net = train()
    TEACHER.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, TEACHER)
    print(f"excess: {excess(net):.4f}")


if __name__ == "__main__":
    main()
