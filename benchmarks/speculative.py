"""What a draft saves: tokens a second with one, against the target alone and against assisted generation.

The target is a Llama of 12 layers and width 512, the draft one of 2 layers and width 128, neither trained, vocabulary
32,000. That the draft be right as often as a good one, both have the same embeddings and the same output matrix, those
of the draft in 128 of the target's 512 dimensions: beside this rule for the token after a token, which they share,
their layers add what they do not share. All that either computes is computed. *Kept* is the share of proposals that
would be, exact at every token of the target's texts (`expected_share`); *counted* is kept over proposed.

Sampled at temperature 1: 32 tokens after each of 1 or 8 prompts of 8 to 32 tokens, which are read anew each time.
Assisted generation of transformers takes one prompt at a time; it is given blocks of the same size, and once its own
settings. Seconds are those of the processor. *Expected* is (1 - a^(K+1)) / ((1 - a) (c K + 1)) of Leviathan et al.
(arXiv:2211.17192), where c is what a token of the draft costs of one of the target's; there a check of K + 1 tokens
costs what one token does, and *check* is what it does cost.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from limbeck.adapters.causal_lm import CausalLM
from limbeck.data import Table
from limbeck.parts.rollout import sample
from limbeck.parts.speculative import expected_speedup, speculate
from limbeck.players import Player, Players
from limbeck.probes.drafted import expected_share
from limbeck.rng import Rng
from limbeck.roles import frozen

REPEATS = 5
THREADS = 1
VOCABULARY, NEW, WIDE, NARROW = 32_000, 32, 512, 128
BLOCKS, BATCHES, CHECKS = (2, 4, 8), (1, 8), 4
SHARPNESS, NOISE = 3.0, 0.1  # of the shared rule; of what the layers add
HEADING = (
    "rows", "K", "kept", "counted", "tokens / call", "target alone, tokens / s", "with the draft", "ratio", "c",
    "expected", "check", "assisted, tokens / s", "ratio",
)  # fmt: skip


def model(width: int, layers: int, seed: int) -> LlamaForCausalLM:
    """A Llama that says what the shared rule and its own layers say."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=None, pad_token_id=0, initializer_range=width**-0.5,
    )  # fmt: skip
    lm, shared = LlamaForCausalLM(config).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for matrix, scale in ((lm.model.embed_tokens.weight, 1.0), (lm.lm_head.weight, SHARPNESS * NARROW**-0.5)):
            matrix.zero_()[:, :NARROW] = scale * torch.randn(VOCABULARY, NARROW, generator=shared)
        for layer in lm.model.layers:
            for out in (layer.self_attn.o_proj, layer.mlp.down_proj):
                out.weight.mul_(NOISE * layers**-0.5)
        lm.model.norm.weight.fill_((NARROW / width) ** 0.5)  # the mean square of its input counts the empty dimensions
    return lm


def prompts(rows: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randint(1, VOCABULARY, (rows, 32), generator=g), torch.randint(8, 33, (rows,), generator=g)


def alone(player: Player, rows: int, seed: int) -> float:
    """Let one model speak by itself; seconds a token, as in the following ones."""
    (tokens, length), start = prompts(rows), time.process_time()
    sample(player, tokens, length, Rng(("bench", seed), torch.arange(rows)), max_new_tokens=NEW)
    return (time.process_time() - start) / (rows * NEW)


def drafted(
    target: Player, draft: Player, rows: int, block: int, counts: list[tuple[int, int, int]], seed: int
) -> float:
    """Let both speak; what was proposed, kept, and the calls it took, go into `counts`."""
    (tokens, length), rng, start = prompts(rows), Rng(("bench", seed), torch.arange(rows)), time.process_time()
    done = speculate(target, draft, tokens, length, rng, block=block, max_new_tokens=NEW)
    counts.append((done.proposed, done.kept, done.calls))
    return (time.process_time() - start) / (rows * NEW)


def assisted(target: Player, draft: Player, block: int, seed: int) -> float:
    """Let transformers do it with one prompt; a block of 0 is one of its own choice."""
    tokens, length = prompts(1)
    lm, assistant = (player.module.lm for player in (target, draft))  # type: ignore[union-attr]
    assistant.generation_config.update(
        num_assistant_tokens=block or 20, assistant_confidence_threshold=0.0 if block else 0.4,
        num_assistant_tokens_schedule="constant",
    )  # fmt: skip
    how = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=NEW, pad_token_id=0)
    asked, start = tokens[:, : length[0]], time.process_time()
    torch.manual_seed(seed)
    lm.generate(asked, attention_mask=torch.ones_like(asked), assistant_model=assistant, generation_config=how)
    return (time.process_time() - start) / NEW


@torch.no_grad()
def check(target: Player, rows: int, block: int, seed: int) -> float:
    """Let the target read a block and one token more behind its prompts: seconds of such a call."""
    lm, tokens = target.module.lm, prompts(rows)[0]  # type: ignore[union-attr]
    cache = lm(tokens, logits_to_keep=1).past_key_values
    start = time.process_time()
    for _ in range(CHECKS):
        lm(tokens[:, : block + 1], past_key_values=cache)
        cache.crop(-block - 1)
    return (time.process_time() - start) / CHECKS


def medians(works: dict[str, Callable[[int], float]]) -> dict[str, float]:
    """Of what each takes, all in turn."""
    turns = [{name: work(seed) for name, work in works.items()} for seed in range(REPEATS)]
    return {name: statistics.median(turn[name] for turn in turns) for name in works}


def lines(target: Player, draft: Player, share: float, rows: int) -> tuple[list[str], float]:
    """The lines of one batch size, and seconds a token of assisted generation by its own settings."""
    counts: dict[int, list[tuple[int, int, int]]] = {block: [] for block in BLOCKS}
    works: dict[str, Callable[[int], float]] = {
        "target": partial(alone, target, rows), "draft": partial(alone, draft, rows),
        "check 0": partial(check, target, rows, 0),
    }  # fmt: skip
    for block in BLOCKS:
        works[f"ours {block}"] = partial(drafted, target, draft, rows, block, counts[block])
        works[f"check {block}"] = partial(check, target, rows, block)
    if rows == 1:
        works |= {f"assisted {block}": partial(assisted, target, draft, block) for block in (*BLOCKS, 0)}
    t, out = medians(works), []
    cost = t["draft"] / t["target"]
    for block in BLOCKS:
        proposed, kept, calls = map(sum, zip(*counts[block], strict=True))
        ours, theirs = t[f"ours {block}"], t.get(f"assisted {block}")
        cells = [f"{rows}", f"{block}", f"{share:.2f}", f"{kept / proposed:.2f}", f"{REPEATS * rows * NEW / calls:.2f}"]
        cells += [f"{1 / t['target']:.0f}", f"{1 / ours:.0f}", f"{t['target'] / ours:.2f}", f"{cost:.2f}"]
        cells += [f"{expected_speedup(share, block, cost):.2f}", f"{t[f'check {block}'] / t['check 0']:.2f}"]
        cells += [f"{1 / theirs:.0f}", f"{theirs / ours:.2f}"] if theirs else ["-", "-"]
        out.append(f"| {' | '.join(cells)} |")
    return out, t.get("assisted 0", 0.0)


def table() -> list[str]:
    """The rows of the table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    target, draft = (
        Player(name, frozen(), CausalLM(model(width, layers, seed)))
        for name, width, layers, seed in (("teacher", WIDE, 12, 1), ("student", NARROW, 2, 2))
    )
    tokens, length = prompts(8)
    rows = {"tokens": tokens, "prompt": length, "length": length, "mask": torch.zeros_like(tokens, dtype=torch.bool)}
    share = expected_share(rows=8, max_new_tokens=NEW)(
        Players({"teacher": target, "student": draft}), {"test": Table(rows)}
    )
    found = [lines(target, draft, share, batch) for batch in BATCHES]
    own = f"By its own settings assisted generation makes {1 / found[0][1]:.0f} tokens a second."
    return [
        f"| {' | '.join(HEADING)} |",
        "|---" * len(HEADING) + "|",
        *(line for some, _ in found for line in some),
        "",
        own,
    ]
