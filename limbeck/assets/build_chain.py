"""Train the base player of the chains in two turns, and save it as an ordinary transformers directory.

    python -m limbeck.assets.build_chain

Two to six minutes on one core. Its errors and its reluctance to correct them are planted: every step of its training
solutions is wrong with a known probability, and the second answer repeats the first in most conversations.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from limbeck.beds import chain
from limbeck.beds._text import BOS, EOS

__all__ = ["COPIES", "SLIPS", "build", "conversation"]

SLIPS = 0.18  # a step is wrong so often
COPIES = 0.85  # the second answer repeats the first so often


def conversation(problem: chain.Problem, slips: Sequence[Sequence[int]]) -> tuple[list[int], list[bool]]:
    """Write a question, an answer, the request and a second answer as tokens, with the answers as targets.

    Args:
        problem: the problem.
        slips: the slips of both answers (see `limbeck.beds.chain.values`).

    Example:
        >>> tokens, mask = conversation((3, 0, 4), ([0], [1]))
        >>> chain.ALPHABET.decode([t for t in tokens if t not in (BOS, EOS)]), sum(mask)
        ('3+4=7?8', 4)
    """
    asked = ([BOS, *chain.ALPHABET.encode(text)] for text in (chain.question(problem), chain.REQUEST))
    said = ([*chain.ALPHABET.encode(chain.solution(problem, s)), EOS] for s in slips)
    turns = [piece for pair in zip(asked, said, strict=True) for piece in pair]
    marked = [(token, i % 2 == 1) for i, turn in enumerate(turns) for token in turn]
    return [token for token, _ in marked], [said for _, said in marked]


def drawn(problem: chain.Problem, copies: float, rng: torch.Generator) -> tuple[list[int], list[int]]:
    """Draw the slips of two answers to a problem; the second repeats the first with probability `copies`."""
    steps = len(problem) // 2
    wrong = torch.rand(2, steps, generator=rng) < SLIPS
    first, second = (wrong * torch.randint(1, chain.MODULUS, (2, steps), generator=rng)).tolist()
    return first, first if torch.rand((), generator=rng) < copies else second


def build(steps: int = 2500, *, lr: float = 4e-3, batch_size: int = 128) -> None:
    """Train and save the base player.

    Args:
        steps: optimiser steps.
        lr: the top learning rate, after 5% of warm-up; it falls to 0 with a cosine.
        batch_size: conversations a step.
    """
    start, rng = time.monotonic(), torch.Generator().manual_seed(0)
    player, pool = chain.student(1), chain.problems(20_000, "train", 0)
    model: Any = player.lm.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        chosen = [pool[i] for i in torch.randint(len(pool), (batch_size,), generator=rng)]
        copies = COPIES * min(1.0, 1.5 * step / steps)  # to repeat is learnt in a moment, to try afresh is not
        made = [conversation(p, drawn(p, copies, rng)) for p in chosen]
        tokens_BT, mask_BT = (pad_sequence([torch.tensor(m[k]) for m in made], batch_first=True) for k in range(2))
        logits_BTV = model(input_ids=tokens_BT).logits[:, :-1]
        loss = cross_entropy(logits_BTV[mask_BT[:, 1:]], tokens_BT[:, 1:][mask_BT[:, 1:]])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 250 == 249:
            print(f"step {step + 1:5d}  loss {loss.item():.4f}  {time.monotonic() - start:.0f} s", flush=True)
    model.eval().save_pretrained(chain.FOLDER)
    player.tokenizer.save_pretrained(chain.FOLDER)


if __name__ == "__main__":
    build()
