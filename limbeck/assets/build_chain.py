"""Train the base player of the chains in two turns, and save it as an ordinary transformers directory.

    python -m limbeck.assets.build_chain

Two to six minutes on one core. Its errors and its reluctance to correct them are planted: every step of its training
solutions is wrong with a known probability, and the second answer repeats the first in most conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from limbeck.assets.training import Row, fit
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
    rng = torch.Generator().manual_seed(0)
    player, pool = chain.student(1), chain.problems(20_000, "train", 0)

    def draw(step: int) -> list[Row]:
        chosen = [pool[i] for i in torch.randint(len(pool), (batch_size,), generator=rng)]
        copies = COPIES * min(1.0, 1.5 * step / steps)  # to repeat is learnt in a moment, to try afresh is not
        return [conversation(p, drawn(p, copies, rng)) for p in chosen]

    model: Any = player.lm
    fit(model, draw, steps=steps, lr=lr)
    model.save_pretrained(chain.FOLDER)
    player.tokenizer.save_pretrained(chain.FOLDER)


if __name__ == "__main__":
    build()
