"""Tune and train the two teachers of few characters, and save them as ordinary transformers directories.

    python -m limbeck.assets.build_chars_few

Two to six minutes on one core. Twelve settings are tried with one seed, the best by held-out text trains two teachers
with seeds of their own. Weights are kept in 16 bits.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch

from limbeck.assets.build_chars_deep import loss
from limbeck.beds import chars, chars_few

__all__ = ["GRID", "build", "train"]

GRID = ((100, 150, 200, 300), (0.1, 1.0, 3.0))  # steps, weight decay


def train(seed: int, steps: int, weight_decay: float, *, lr: float = 1e-2, batch_size: int = 32) -> tuple[Any, float]:
    """Train one teacher.

    Args:
        seed: of its weights, its windows and its batches.
        steps: optimiser steps.
        weight_decay: of AdamW.
        lr: the top learning rate, after 5% of warm-up; it falls to 0 with a cosine.
        batch_size: windows a step.

    Returns:
        The player, and its loss on held-out text.
    """
    rng, player, data = torch.Generator().manual_seed(seed), chars_few.student(seed), chars_few.splits(seed)
    model: Any = player.lm.train()
    tokens_NT: Any = data["train"].columns["tokens"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(model, tokens_NT[torch.randint(len(tokens_NT), (batch_size,), generator=rng)]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return player, float(loss(model.eval(), data["valid"].columns["tokens"], chars.PROMPT - 1))


def build() -> None:
    """Choose the settings, train and save both teachers."""
    start, found = time.monotonic(), {}
    for point in itertools.product(*GRID):
        found[point] = train(100, *point)[1]
        print(f"steps {point[0]}, weight decay {point[1]:g}: {found[point]:.4f}  {time.monotonic() - start:.0f} s")
    best = min(found, key=lambda p: found[p])
    for seed, folder in enumerate(chars_few.FOLDERS, 101):
        player, held = train(seed, *best)
        player.lm.half().save_pretrained(folder)
        player.tokenizer.save_pretrained(folder)
        print(f"{folder.name}: {best}, held out {held:.4f}")


if __name__ == "__main__":
    build()
