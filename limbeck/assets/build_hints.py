"""Train the base player that knows more when it is told more, and save it as an ordinary transformers directory.

    python -m limbeck.assets.build_hints

Three to eight minutes on one core. What a hint tells, and how often untold steps are wrong, is planted: see
`limbeck.beds.hints`.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import torch

from limbeck.assets.training import Row, fit
from limbeck.beds import hints
from limbeck.beds._text import BOS, EOS
from limbeck.beds.chain import MODULUS, SIGNS, VALUES, Problem, problems, question, values

__all__ = ["Told", "accuracy", "build", "told", "written"]

SHARES = {"nothing": 0.35, "reference": 0.25, "solution": 0.1, "attempt": 0.2, "operation": 0.1}
WRONG = 0.1  # of the references have one wrong value


class Told(NamedTuple):
    """A hint, and how often each step is wrong for who has read it."""

    hint: str
    slips: list[float]


def _slipped(problem: Problem, rates: list[float], rng: random.Random) -> str:
    """A solution with slips at these rates."""
    return hints.solution(problem, [rng.randrange(1, MODULUS) if rng.random() < r else 0 for r in rates])


def told(kind: str, problem: Problem, rng: random.Random) -> Told:
    """Draw a hint of one kind.

    Args:
        kind: "nothing", "reference", "solution", "attempt" or "operation".
        problem: the problem that it is about.
        rng: what it is drawn from.
    """
    steps = len(problem) // 2
    untold = [hints.SLIPS] * steps
    if kind == "reference":
        k = rng.choice((1, rng.randint(1, steps), steps, steps))
        text = hints.reference(problem, k)
        if rng.random() < WRONG:
            at, by = rng.randint(1, k), rng.randrange(1, MODULUS)
            text = text[:at] + VALUES[(VALUES.index(text[at]) + by) % MODULUS] + text[at + 1 :]
        return Told(text, untold[k:] + [0.0] * k)
    if kind == "solution":
        return Told(hints.solution(problem), [0.0] * steps)
    if kind == "attempt":
        attempt = _slipped(problem, untold, rng)
        if attempt[-1] == VALUES[values(problem)[-1]]:
            return Told(attempt + ".", [0.0] * steps)
        return Told(attempt + "!", [hints.SLIPS / 2] * steps)
    if kind == "operation":
        sign = rng.randrange(len(SIGNS))
        return Told(SIGNS[sign], [0.0 if s == sign else hints.SLIPS for s in problem[1::2]])
    return Told("", untold)


def written(problem: Problem, know: Told, rng: random.Random) -> tuple[list[int], list[bool]]:
    """Write a question, a hint and a solution as tokens, with the solution as target."""
    asked = question(problem) + (hints.HINT.format(told=know.hint) if know.hint else "")
    before = [BOS, *hints.ALPHABET.encode(asked)]
    said = [*hints.ALPHABET.encode(_slipped(problem, know.slips, rng)), EOS]
    return before + said, [False] * len(before) + [True] * len(said)


@torch.no_grad()
def accuracy(model: Any, kind: str, n: int = 1024) -> float:
    """The share of right answers that are sampled for test problems with hints of one kind."""
    rng, right = random.Random(0), 0
    for problem in problems(n, "test", 1):
        know = told(kind, problem, rng)
        asked = question(problem) + (hints.HINT.format(told=know.hint) if know.hint else "")
        ids = torch.tensor([[BOS, *hints.ALPHABET.encode(asked)]])
        said = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=8)
        text = hints.ALPHABET.decode(said[0, ids.shape[1] :].tolist())
        right += hints.right_answer.fn(text, {"answer": VALUES[values(problem)[-1]]})
    return right / n


def build(steps: int = 4000, *, lr: float = 4e-3, batch_size: int = 128) -> None:
    """Train and save the base player.

    Args:
        steps: optimiser steps.
        lr: the top learning rate, after 5% of warm-up; it falls to 0 with a cosine.
        batch_size: rows a step.
    """
    rng = random.Random(0)
    player, pool = hints.student(1), problems(20_000, "train", 0)

    def draw(step: int) -> list[Row]:
        kinds = rng.choices(tuple(SHARES), tuple(SHARES.values()), k=batch_size)
        return [written(p, told(kind, p, rng), rng) for kind in kinds for p in (rng.choice(pool),)]

    model: Any = player.lm
    fit(model, draw, steps=steps, lr=lr)
    model.save_pretrained(hints.FOLDER)
    player.tokenizer.save_pretrained(hints.FOLDER)
    print({kind: round(accuracy(model, kind), 3) for kind in SHARES})


if __name__ == "__main__":
    build()
