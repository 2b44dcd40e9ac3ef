"""Train the arithmetic teacher and a warm student, and save both as ordinary transformers directories.

    python -m limbeck.assets.build_arith [arith-teacher] [arith-warm-student]

Two to five minutes on one core. The teacher is trained until it is right, the student is stopped while it errs: good
enough to sample from, bad enough to learn from its own mistakes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from limbeck.beds import arith
from limbeck.beds._text import tiny_llama

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

__all__ = ["PLANS", "Plan", "accuracy", "build", "train"]


class Plan(NamedTuple):
    """How one model is made: its weights' seed and shape, and the arguments of `train`."""

    seed: int
    width: int
    layers: int
    steps: int
    lr: float
    digits: tuple[int, ...]


def train(model: LlamaForCausalLM, steps: int, *, lr: float, digits: tuple[int, ...], batch_size: int = 96) -> None:
    """Fit a model to solutions of training problems, in place.

    Args:
        model: the model.
        steps: optimiser steps.
        lr: the top learning rate, after 5% of warm-up; it falls to 0 with a cosine.
        digits: digits of the operands, one after the other from step to step.
        batch_size: problems a step.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.05)
    pools = {d: arith.rows(arith.problems(4096 if d == 2 else 30000, "train", 0, digits=d), 0) for d in digits}
    model.train()
    for step in range(steps):
        pool = pools[digits[step % len(digits)]]
        batch = pool.take(torch.randint(len(pool), (batch_size,), generator=torch.Generator().manual_seed(step)))
        loss = _loss(model, batch["tokens"], batch["mask"])  # type: ignore[arg-type]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1:5d}  loss {loss.item():.4f}")
    model.eval()


def _loss(model: LlamaForCausalLM, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean cross-entropy of the target tokens."""
    logits = model(input_ids=tokens_BT).logits[:, :-1]
    return cross_entropy(logits[mask_BT[:, 1:]], tokens_BT[:, 1:][mask_BT[:, 1:]])


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, digits: int, *, greedy: bool, n: int = 512) -> float:
    """The share of right answers to test problems, by the generation of transformers.

    Args:
        model: the model.
        digits: digits of the operands.
        greedy: whether the most probable token is taken; else tokens are drawn from the distribution as it is.
        n: problems.
    """
    table = arith.rows(arith.problems(n, "test", 1, digits=digits), 1)
    asked = table.columns["tokens"][:, : 2 * digits + 3]  # type: ignore[call-overload]
    how = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    given = {"input_ids": asked, "attention_mask": torch.ones_like(asked), "max_new_tokens": 10 * digits + 12}
    said = cast(Any, model).generate(**given, **how)
    texts = map(arith.ALPHABET.decode, said[:, asked.shape[1] :].tolist())
    return sum(map(arith.answer_right, table.columns["question"], texts)) / n


PLANS = {
    "arith-teacher": Plan(seed=0, width=96, layers=2, steps=1200, lr=3e-3, digits=(3, 2)),
    "arith-warm-student": Plan(seed=1, width=32, layers=2, steps=400, lr=5e-3, digits=(2,)),
}


def build(folder: Path, name: str) -> None:
    """Train and save one model.

    Args:
        folder: where its directory is made.
        name: the name of its plan and of its directory.
    """
    start, plan = time.monotonic(), PLANS[name]
    model = tiny_llama(arith.ALPHABET.size, plan.seed, width=plan.width, layers=plan.layers)
    torch.manual_seed(0)
    train(model, plan.steps, lr=plan.lr, digits=plan.digits)
    model.save_pretrained(folder / name)
    arith.ALPHABET.tokenizer().save_pretrained(folder / name)
    for digits in sorted(plan.digits):
        sampled, greedy = accuracy(model, digits, greedy=False), accuracy(model, digits, greedy=True)
        print(f"{name}: {digits} digits, sampled {sampled:.3f}, greedy {greedy:.3f}")
    print(f"{name}: {model.num_parameters():,} parameters, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    for name in sys.argv[1:] or PLANS:
        build(arith.ASSETS, name)
