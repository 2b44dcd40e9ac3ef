"""How the language models of beds are trained: AdamW, one cycle of the rate, the loss of the targets alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

__all__ = ["Row", "fit"]

Row = tuple[list[int], list[bool]]  # tokens, and which of them are targets


def fit(model: Any, draw: Callable[[int], Sequence[Row]], *, steps: int, lr: float) -> None:
    """Fit a causal language model of transformers to rows that are drawn afresh, in place.

    Args:
        model: the model; it is in evaluation mode afterwards.
        draw: the rows of a step, by its number.
        steps: optimiser steps.
        lr: the top learning rate, after 5% of warm-up; it falls to 0 with a cosine.
    """
    start = time.monotonic()
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        made = draw(step)
        tokens_BT, mask_BT = (pad_sequence([torch.tensor(m[k]) for m in made], batch_first=True) for k in range(2))
        logits_BTV = model(input_ids=tokens_BT).logits[:, :-1]
        loss = cross_entropy(logits_BTV[mask_BT[:, 1:]], tokens_BT[:, 1:][mask_BT[:, 1:]])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1:5d}  loss {loss.item():.4f}  {time.monotonic() - start:.0f} s", flush=True)
    model.eval()
