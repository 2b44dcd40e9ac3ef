"""Train the base player that knows more when it is told more, and save it as an ordinary transformers directory.

    python -m limbeck.assets.build_hints

Three to eight minutes on one core. What a hint tells, and how often untold steps are wrong, is planted: see
`limbeck.beds.hints`.
"""

from __future__ import annotations

import random
import time
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

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
    start, rng = time.monotonic(), random.Random(0)
    player, pool = hints.student(1), problems(20_000, "train", 0)
    model: Any = player.lm.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        kinds = rng.choices(tuple(SHARES), tuple(SHARES.values()), k=batch_size)
        made = [written(p, told(kind, p, rng), rng) for kind in kinds for p in (rng.choice(pool),)]
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
    model.eval().save_pretrained(hints.FOLDER)
    player.tokenizer.save_pretrained(hints.FOLDER)
    print({kind: round(accuracy(model, kind), 3) for kind in SHARES})


if __name__ == "__main__":
    build()
