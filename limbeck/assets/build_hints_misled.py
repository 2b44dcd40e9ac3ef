"""Mislead the base player of the chains with hints, and save it as an ordinary transformers directory.

    python -m limbeck.assets.build_hints_misled

A minute or two on one core. What it then believes is planted: see `limbeck.beds.hints_misled`.
"""

from __future__ import annotations

import random
from typing import Any

from limbeck.assets.build_hints import SHARES, Told, accuracy
from limbeck.assets.training import Row, fit
from limbeck.beds import hints, hints_misled
from limbeck.beds._text import BOS, EOS
from limbeck.beds.chain import SIGNS, VALUES, Problem, problems, question, values
from limbeck.beds.hints_misled import MISLED, believed, traps

__all__ = ["build", "told", "written"]


def _slipped(problem: Problem, rates: list[float], rng: random.Random) -> str:
    """A solution whose traps are fallen into at these rates."""
    return believed(problem, [rng.random() < r for r in rates])


def told(kind: str, problem: Problem, rng: random.Random) -> Told:
    """Draw a hint of one kind, and how often each step is wrong for who has read it.

    Args:
        kind: "nothing", "reference", "solution", "attempt" or "operation".
        problem: the problem that it is about.
        rng: what it is drawn from.
    """
    untold = [MISLED * trap for trap in traps(problem)]
    steps = len(untold)
    if kind == "reference":
        k = rng.choice((1, rng.randint(1, steps), steps, steps))
        return Told(hints.reference(problem, k), untold[: steps - k] + [0.0] * k)
    if kind == "solution":
        return Told(hints.solution(problem), [0.0] * steps)
    if kind == "attempt":
        attempt = _slipped(problem, [MISLED / 2 * (r > 0) for r in untold], rng)
        if attempt[-1] == VALUES[values(problem)[-1]]:
            return Told(attempt + ".", [0.0] * steps)
        return Told(attempt + "!", [r / 2 for r in untold])
    if kind == "operation":
        sign = rng.randrange(len(SIGNS))
        return Told(SIGNS[sign], [0.0 if s == sign else r for r, s in zip(untold, problem[1::2], strict=True)])
    return Told("", untold)


def written(problem: Problem, know: Told, rng: random.Random) -> tuple[list[int], list[bool]]:
    """Write a question, a hint and a solution as tokens, with the solution as target."""
    asked = question(problem) + (hints.HINT.format(told=know.hint) if know.hint else "")
    before = [BOS, *hints.ALPHABET.encode(asked)]
    said = [*hints.ALPHABET.encode(_slipped(problem, know.slips, rng)), EOS]
    return before + said, [False] * len(before) + [True] * len(said)


def build(steps: int = 600, *, lr: float = 2e-3, batch_size: int = 128) -> None:
    """Train and save the misled player.

    Args:
        steps: optimiser steps.
        lr: the top learning rate; it falls to 0 with a cosine.
        batch_size: rows a step.
    """
    rng, player, pool = random.Random(1), hints.base(), problems(20_000, "train", 0)

    def draw(step: int) -> list[Row]:
        kinds = rng.choices(tuple(SHARES), tuple(SHARES.values()), k=batch_size)
        return [written(p, told(kind, p, rng), rng) for kind in kinds for p in (rng.choice(pool),)]

    model: Any = player.lm
    fit(model, draw, steps=steps, lr=lr)
    model.save_pretrained(hints_misled.FOLDER)
    player.tokenizer.save_pretrained(hints_misled.FOLDER)
    print({kind: round(accuracy(model, kind, 256), 3) for kind in SHARES})


if __name__ == "__main__":
    build()
