"""Rebuild the teacher of the digits beds: `python -m limbeck.assets.build_digits` (10 seconds on one core)."""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from limbeck.batch import Batch
from limbeck.beds.digits import TEACHER, convolutional, splits
from limbeck.data import rows_of_step

__all__ = ["main", "train"]


def _shifted(x: Tensor, rng: torch.Generator) -> Tensor:
    """Move all images of a batch by up to one pixel."""
    i, j = torch.randint(0, 3, (2,), generator=rng).tolist()
    return pad(x, (1, 1, 1, 1))[..., i : i + 8, j : j + 8]


def train(epochs: int = 150, batch_size: int = 64) -> nn.Sequential:
    """Train the teacher on its rows, with one-cycle AdamW and shifts.

    Args:
        epochs: passes over the 1000 rows.
        batch_size: rows a step.

    Returns:
        The net, in evaluation mode.
    """
    torch.manual_seed(0)
    net, rows, rng = convolutional(64), splits()["pool"], torch.Generator().manual_seed(0)
    steps = epochs * len(rows) // batch_size
    optimiser = torch.optim.AdamW(net.parameters(), lr=6e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    for step in range(steps):
        batch = Batch(rows.take(rows_of_step(len(rows), step, batch_size, "teacher")))
        optimiser.zero_grad()
        cross_entropy(net(_shifted(batch.x, rng)), batch.y).backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def main() -> None:
    """Train the teacher, write its weights, and print its accuracy on every split."""
    torch.set_num_threads(1)
    net = train()
    TEACHER.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, TEACHER)
    with torch.no_grad():
        for name, split in splits().items():
            right = net(split.columns["x"]).argmax(-1) == split.columns["y"]
            print(f"{name}: {right.float().mean():.4f}")


if __name__ == "__main__":
    main()
