"""What sampling costs: against `generate` of transformers, with prompts and answers of uneven length.

A Llama of 4 layers and width 256 without training continues 64 prompts of 8 to 128 tokens, each by at most 128 more; a
bias on the end token makes answers of 32 tokens in the mean. `generate` is given the prompts sorted by length in parts
of 16, 32 or 64, whichever is fastest, our sampler all at once and unsorted; `generate_batch` is its continuous
batching. Tokens are those up to the end of each answer, seconds those of the processor. The greedy ids of `generate`
and ours are compared: they may differ where the two best logits are nearly equal.

The floor: every decoding step reads all weights once, whatever the number of rows.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from limbeck.adapters.causal_lm import CausalLM
from limbeck.parts.rollout import sample
from limbeck.players import Player
from limbeck.rng import Rng
from limbeck.roles import frozen

REPEATS = 5
THREADS = 1
ROWS, NEW, MEAN, END = 64, 128, 32, 1
PARTS = (16, 32, 64)
Said = list[list[int]]


def model(vocab: int, *, greedy: bool) -> LlamaForCausalLM:
    """Logits have a spread of 1; the end token comes once in 32 steps."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=2, eos_token_id=END, pad_token_id=0,
    )  # fmt: skip
    lm = LlamaForCausalLM(config).eval()
    lm.lm_head = nn.Linear(256, vocab)
    nn.init.normal_(lm.lm_head.weight, std=1 / 16)
    nn.init.zeros_(lm.lm_head.bias)
    for layer in lm.model.layers:  # greedy texts of weights as they are drawn go round in circles
        for p in layer.parameters():
            p.data.mul_(3.0 if p.ndim == 2 else 1.0)
    odds = math.sqrt(2 * math.log(vocab)) - 2.2 if greedy else math.log(vocab / MEAN) + 0.5
    lm.lm_head.bias.data[END] = odds
    return lm


def prompts(vocab: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    length_B = torch.randint(8, 129, (ROWS,), generator=g)
    return torch.randint(3, vocab, (ROWS, 128), generator=g), length_B


def ours(lm: LlamaForCausalLM, tokens_BT: Tensor, length_B: Tensor, seed: int, temperature: float) -> Said:
    player, rng = Player("it", frozen(), CausalLM(lm)), Rng(("bench", seed), torch.arange(ROWS))
    made, total = sample(player, tokens_BT, length_B, rng, temperature=temperature, max_new_tokens=NEW)
    return [t[p:n] for t, p, n in zip(made.tolist(), length_B.tolist(), total.tolist(), strict=True)]


def settings(temperature: float) -> GenerationConfig:
    return GenerationConfig(
        do_sample=temperature > 0, top_k=0, max_new_tokens=NEW, eos_token_id=END, pad_token_id=0, bos_token_id=2
    )


def generate(
    lm: LlamaForCausalLM, tokens_BT: Tensor, length_B: Tensor, seed: int, temperature: float, part: int
) -> Said:
    torch.manual_seed(seed)
    said: Said = [[] for _ in range(ROWS)]
    for rows in length_B.argsort().split(part):
        width = int(length_B[rows].max())
        at = torch.arange(width) - (width - length_B[rows])[:, None]
        asked = tokens_BT[rows].gather(1, at.clamp(min=0)).where(at >= 0, 0)
        made = lm.generate(asked, attention_mask=(at >= 0).long(), generation_config=settings(temperature))
        for b, row in zip(rows.tolist(), made[:, width:].tolist(), strict=True):
            said[b] = row[: row.index(END) + 1] if END in row else row
    return said


def continuous(lm: LlamaForCausalLM, tokens_BT: Tensor, length_B: Tensor, seed: int, temperature: float) -> Said:
    torch.manual_seed(seed)
    asked = [t[:n] for t, n in zip(tokens_BT.tolist(), length_B.tolist(), strict=True)]
    made = lm.generate_batch(asked, generation_config=settings(temperature), progress_bar=False)
    return [made[name].generated_tokens for name in sorted(made, key=lambda n: int(n.rsplit("_", 1)[-1]))]


def rate(work: Callable[..., Said], *given: Any) -> tuple[float, Said]:
    start = time.process_time()
    said = work(*given)
    return sum(map(len, said)) / (time.process_time() - start), said


def table() -> list[str]:
    """The rows of the table: vocabulary and sampling, tokens a second of each, and our ratio to each."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    heading = [
        "vocabulary",
        "sampling",
        "tokens / s",
        "`generate`",
        "rows",
        "ratio",
        "`generate_batch`",
        "ratio",
        "ids",
    ]
    out = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    weights = []
    for vocab in (32_000, 2048):
        tokens_BT, length_B = prompts(vocab)
        for temperature in (1.0, 0.0):
            lm = model(vocab, greedy=temperature == 0)
            given = (lm, tokens_BT, length_B)
            part = max(PARTS, key=lambda n: rate(generate, *given, 0, temperature, n)[0])
            works = [ours, partial(generate, part=part), continuous]
            runs = [[rate(work, *given, seed, temperature) for work in works] for seed in range(REPEATS)]
            speed = [statistics.median(run[i][0] for run in runs) for i in range(3)]
            same = sum(a == b for a, b in zip(runs[0][0][1], runs[0][1][1], strict=True))
            cells = [f"{vocab:,}", "greedy" if temperature == 0 else "at temperature 1", f"{speed[0]:,.0f}"]
            cells += [f"{speed[1]:,.0f}", str(part), f"{speed[0] / speed[1]:.2f}"]
            cells += [
                f"{speed[2]:,.0f}",
                f"{speed[0] / speed[2]:.2f}",
                f"{same} of {ROWS}" if temperature == 0 else "-",
            ]
            out.append(f"| {' | '.join(cells)} |")
        weights.append(
            f"{sum(p.nbytes for p in lm.parameters() if p is not lm.model.embed_tokens.weight) / 2**20:.0f} MiB"
        )
    note = f"A step reads {weights[0]} of weights with the larger vocabulary, {weights[1]} with the smaller one."
    return [*out, "", note]
