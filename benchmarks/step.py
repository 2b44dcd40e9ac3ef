"""What a whole training step of a language model costs: ours against the GKD trainer of TRL.

A student of 4 layers and width 128 learns from a teacher of 8 layers and width 256, both Llamas without training, on 4
rows of 128 tokens of which 32 are the prompt; AdamW, no clipping. Off-policy both are given the same rows, and their
losses are compared step by step; on-policy each samples its own answers, 96 tokens without an end. A step is the time
between two updates, in seconds of the processor; memory is the peak beyond what was there before training.

*Products* is what both must do, without any loss: the forward of the teacher's layers, forward and backward of the
student's, and the four products with the output matrices. No trainer can be faster than that, so TRL's time over it
bounds the ratio. On-policy both must also decode, which it leaves out.

Needs TRL; where it cannot be imported, nothing is measured. The peak needs /proc, so this runs on Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import io
import itertools
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.divergence import GIB, resident
from limbeck.adapters.causal_lm import CausalLM
from limbeck.data import Table
from limbeck.loop import Loop, Options
from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import rollout
from limbeck.parts.token import jsd
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import frozen, learning
from limbeck.run import Run

REPEATS = 3
THREADS = 1
ROWS, TOKENS, PROMPT, LR = 4, 128, 32, 1e-3
CASES = {"off-policy, forward KL": (0.0, False), "off-policy, JSD": (0.5, False), "on-policy, JSD": (0.5, True)}
STEPS = {32_000: 3, 151_936: 2}
Cost = tuple[float, float, list[float]]


def llama(vocab: int, width: int, layers: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, bos_token_id=None,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    lm = LlamaForCausalLM(config)
    lm.lm_head.weight.data.mul_(3 / width**0.5 / 0.02)  # logits with a spread of 3
    return lm


def models(vocab: int) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Student and teacher."""
    return llama(vocab, 128, 4, 0), llama(vocab, 256, 8, 1)


def rows(vocab: int) -> Tensor:
    return torch.randint(3, vocab, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))


def ours(vocab: int, beta: float, own: bool, steps: int) -> list[float]:
    """Train, and return the loss of every step."""
    facts = dict(title="", paper="", family="", kind="", learns="", teacher="")
    batch = rollout(max_new_tokens=TOKENS - PROMPT) if own else None
    phase = Phase("student", ("student",), jsd(beta=beta), **({"batch": batch} if own else {}))
    recipe = Recipe(
        key="step", players={"student": learning(adamw(lr=LR, weight_decay=0.0)), "teacher": frozen()},
        stages=(Learn("fit", (phase,), steps=steps, batch_size=ROWS),), **facts,
    )  # fmt: skip
    student, teacher = models(vocab)
    at = torch.full((ROWS,), PROMPT)
    mask = (torch.arange(TOKENS) >= PROMPT).expand(ROWS, -1).contiguous()
    data = Table({"tokens": rows(vocab), "mask": mask, "length": at * 0 + TOKENS, "prompt": at})
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder) / "run", {"key": "step"}) as run:
        nets = {"student": CausalLM(student), "teacher": CausalLM(teacher)}
        Loop(recipe, nets, {"train": data}, Options(), run).execute()
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["student/loss"] for line in lines]


def trl(vocab: int, beta: float, own: bool, steps: int) -> list[float]:
    """Train with GKD of TRL, and return the loss of every step."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers import models as words
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    student, teacher = models(vocab)
    letters = Tokenizer(words.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", eos_token="<end>")

    def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = torch.tensor([item["input_ids"] for item in items])
        labels = ids.masked_fill(torch.arange(TOKENS) < PROMPT, -100)
        ones, prompts = torch.ones_like(ids), ids[:, :PROMPT].clone()
        asked = {"prompts": prompts, "prompt_attention_mask": torch.ones_like(prompts)}
        return {"input_ids": ids, "attention_mask": ones, "labels": labels, **asked}

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = GKDConfig(
            output_dir=folder, lmbda=float(own), beta=beta, temperature=1.0, max_new_tokens=TOKENS - PROMPT,
            max_steps=steps, per_device_train_batch_size=ROWS, learning_rate=LR, lr_scheduler_type="constant",
            weight_decay=0.0, max_grad_norm=0.0, logging_steps=1, report_to="none", save_strategy="no", use_cpu=True,
            bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        )  # fmt: skip
        data = Dataset.from_dict({"input_ids": rows(vocab).tolist()})
        trainer = GKDTrainer(
            model=student, teacher_model=teacher, args=settings, train_dataset=data, data_collator=collate,
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.generation_config.eos_token_id = None
        trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def products(vocab: int, beta: float, own: bool, steps: int) -> list[float]:
    """What no trainer can leave out: the layers and the products with the output matrices."""
    student, teacher = models(vocab)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.0, fused=True)
    for _ in range(steps):
        with torch.no_grad():
            theirs = teacher.model(rows(vocab)).last_hidden_state[:, PROMPT - 1 : -1].flatten(0, 1)
            torch.mm(theirs, teacher.lm_head.weight.mT)
        hidden = student.model(rows(vocab)).last_hidden_state[:, PROMPT - 1 : -1].flatten(0, 1)
        with torch.no_grad():
            slope = torch.mm(hidden, student.lm_head.weight.mT)
            student.lm_head.weight.grad = torch.mm(slope.mT, hidden)
            back = torch.mm(slope, student.lm_head.weight)
        hidden.backward(back)
        optimizer.step()
        optimizer.zero_grad()
    return []


def cost(work: Callable[[], list[float]]) -> Cost:
    """Seconds of the processor of a step (that of the first, which sets up, is left out), peak in GiB, and losses."""
    ticks: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ticks.append(time.process_time()))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    losses = work()
    hook.remove()
    peak = (resident("VmHWM") - before) / GIB
    return statistics.median(b - a for a, b in itertools.pairwise(ticks)), peak, losses


def table() -> list[str]:
    """The rows of the table: vocabulary and case, tokens a second and memory of each, and their ratios."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if not importlib.util.find_spec("trl"):
        return ["TRL cannot be imported here, so nothing is measured."]
    heading = ["vocabulary", "training", "ours, tokens / CPU s", "TRL", "ratio", "at most", "ours, peak GiB", "TRL",
               "losses differ by"]  # fmt: skip
    out = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for vocab, steps in STEPS.items():
        repeats = REPEATS if vocab < 100_000 else 1
        for name, (beta, own) in CASES.items():
            works = [partial(f, vocab, beta, own, steps + 1) for f in (ours, trl, products)]
            runs = [[cost(work) for work in works] for _ in range(repeats)]
            seconds, peak = ([statistics.median(run[i][j] for run in runs) for i in range(3)] for j in (0, 1))
            apart = max(abs(a - b) / abs(b) for run in runs for a, b in zip(run[0][2], run[1][2], strict=True))
            assert own or apart < 1e-3, f"{name}: the losses differ by {apart:.1e}"
            said = ROWS * (TOKENS - PROMPT)
            cells = [f"{vocab:,}", name, f"{said / seconds[0]:,.0f}", f"{said / seconds[1]:,.0f}"]
            cells += [f"{seconds[1] / seconds[0]:.2f}", "-" if own else f"{seconds[1] / seconds[2]:.2f}"]
            cells += [f"{peak[0]:.2f}", f"{peak[1]:.2f}", "own samples" if own else f"{apart:.0e}"]
            out.append(f"| {' | '.join(cells)} |")
    return out
