"""Train the deep teacher of characters, and save it as an ordinary transformers directory.

    python -m limbeck.assets.build_chars_deep

Two to five minutes on one core. Weights are kept in 16 bits. It stops where the held-out text is predicted best: 80,000
characters are soon known by heart.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from limbeck.beds import chars, chars_deep

__all__ = ["build", "loss"]


def loss(model: Any, tokens_BT: Tensor, first: int = 0) -> Tensor:
    """The mean cross-entropy of the tokens after place `first`."""
    logits_BTV = model(input_ids=tokens_BT).logits[:, first:-1]
    return cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, first + 1 :].flatten())


def build(steps: int = 600, *, lr: float = 4e-3, batch_size: int = 64, weight_decay: float = 0.3) -> None:
    """Train and save the teacher.

    Args:
        steps: optimiser steps, at most.
        lr: the top learning rate, after 5% of warm-up; it falls to 0 with a cosine.
        batch_size: windows a step.
        weight_decay: of AdamW.
    """
    start, rng = time.monotonic(), torch.Generator().manual_seed(0)
    player, text_N = chars_deep.student(1, layers=chars_deep.LAYERS), chars.encoded("train")
    held_BT = chars.encoded("valid").unfold(0, chars.WINDOW, chars.WINDOW)
    model: Any = player.lm.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.05)
    best, kept = float("inf"), model
    for step in range(steps):
        at_B = torch.randint(len(text_N) - chars.WINDOW + 1, (batch_size,), generator=rng)
        found = loss(model, text_N[at_B[:, None] + torch.arange(chars.WINDOW)])
        optimiser.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            with torch.no_grad():
                held = loss(model, held_BT, chars.PROMPT - 1).item()
            if held < best:
                best, kept = held, copy.deepcopy(model)
            print(
                f"step {step + 1:5d}  loss {found.item():.4f}  held out {held:.4f}  {time.monotonic() - start:.0f} s",
                flush=True,
            )
    kept.eval().half().save_pretrained(chars_deep.FOLDER)
    player.tokenizer.save_pretrained(chars_deep.FOLDER)


if __name__ == "__main__":
    build()
