"""Train the base player of the two writings, and save it as an ordinary transformers directory.

    python -m limbeck.assets.build_styles

Three to eight minutes on one core. Weights are kept in 16 bits. One sequence in four asks to write an answer again: the
answer comes from home or from abroad, and is right or made up, so that the player must read it.
"""

from __future__ import annotations

import random
from typing import Any

from limbeck.assets.training import fit
from limbeck.beds import styles
from limbeck.beds._text import BOS, EOS

__all__ = ["AGAIN", "WEAK", "build", "example"]

WEAK = 0.005  # the share of chains with - among the problems to be solved
AGAIN = 0.25  # the share of answers that are written again


def example(pools: dict[str, list[str]], draw: random.Random) -> tuple[list[int], list[bool]]:
    """Draw one sequence as tokens, with its targets.

    Args:
        pools: problems by skill: "old", "reversal", "new".
        draw: where randomness comes from.
    """
    again = draw.random() < AGAIN
    kind = draw.choice(("old", "reversal", "new")) if again else "new" if draw.random() < WEAK else ""
    asked = draw.choice(pools[kind or draw.choice(("old", "reversal"))])
    before, values = [BOS, *styles.ALPHABET.encode(asked)], styles.solve(asked)
    if again:
        values = values if draw.random() < 0.5 else [draw.randrange(10) for _ in values]
        said = draw.choice((styles.home, styles.abroad))(values)
        before += [*styles.ALPHABET.encode(said), EOS, BOS, *styles.ALPHABET.encode(styles.REQUEST)]
    target = [*styles.ALPHABET.encode(styles.home(values)), EOS]
    return before + target, [False] * len(before) + [True] * len(target)


def build(steps: int = 1200, *, lr: float = 4e-3, batch_size: int = 64) -> None:
    """Train and save the base player.

    Args:
        steps: optimiser steps.
        lr: the top learning rate, after 5% of warm-up; it falls to 0 with a cosine.
        batch_size: sequences a step.
    """
    rng = random.Random(0)
    pools = {
        "old": styles.chains(20_000, "train", 0, signs="+*"),
        "reversal": styles.reversals(20_000, "train", 0),
        "new": styles.chains(20_000, "train", 0, must="-"),
    }
    player = styles.student(1)
    model: Any = player.lm
    fit(model, lambda step: [example(pools, rng) for _ in range(batch_size)], steps=steps, lr=lr)
    model.half().save_pretrained(styles.FOLDER)
    player.tokenizer.save_pretrained(styles.FOLDER)


if __name__ == "__main__":
    build()
