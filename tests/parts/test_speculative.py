"""Speculative decoding says what its target would, however poor the draft."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3NextConfig,
)

from limbeck.adapters import forgetting
from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import oracle_lm
from limbeck.beds._text import tiny_llama
from limbeck.data import Table
from limbeck.errors import BadData, BadValue, Mismatch
from limbeck.parts import speculative
from limbeck.parts.draft_length import Belief
from limbeck.parts.rollout import sample
from limbeck.parts.speculative import Speculation, expected_speedup, expected_tokens, speculate
from limbeck.players import Player, Players
from limbeck.probes.enumerated import enumerated
from limbeck.probes.speculative import acceptance, as_draft, kept_share, tokens_per_call
from limbeck.rng import Rng
from limbeck.roles import frozen
from tests.adapters.test_causal_lm import tiny

V = 6
KINDS: list[tuple[type[PretrainedConfig], dict[str, Any]]] = [
    (LlamaConfig, {}), (GPT2Config, {}), (MistralConfig, {"sliding_window": 6}),
    (Gemma3TextConfig, {"sliding_window": 6, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}),
]  # fmt: skip


def player(name: str, net: nn.Module) -> Player:
    return Player(name, frozen(), net.eval())


def llama(seed: int, *, ends: bool = False, vocab: int = V) -> Player:
    return player("llama", CausalLM(tiny_llama(vocab, seed, width=16, layers=2, ends=ends)))


def prompts(rows: int) -> tuple[Tensor, Tensor, Rng]:
    one = torch.ones(rows, dtype=torch.long)
    return one[:, None].clone(), one, Rng(("test",), torch.arange(rows))


def uneven(rows: int, vocab: int = 37) -> tuple[Tensor, Tensor, Rng]:
    g = torch.Generator().manual_seed(0)
    tokens, length = torch.randint(3, vocab, (rows, 12), generator=g), torch.randint(1, 13, (rows,), generator=g)
    return tokens, length, Rng(("uneven",), torch.arange(rows))


def pair(config: type[PretrainedConfig] = LlamaConfig, **changes: Any) -> tuple[Player, Player]:
    """A target and a draft that often agree: the same weights, but for a little noise."""
    lm: list[PreTrainedModel] = [tiny(config, **changes).double() for _ in range(2)]
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for p in lm[1].parameters():
            p.add_(0.6 * p.std() * torch.randn_like(p) if p.ndim == 2 else 0)
    return player("target", CausalLM(lm[0])), player("draft", CausalLM(lm[1]))


def one_by_one(
    target: Player, draft: Player, tokens: Tensor, length: Tensor, rng: Rng, **how: Any
) -> list[Speculation]:
    rows = [slice(b, b + 1) for b in range(len(length))]
    return [speculate(target, draft, tokens[r], length[r], rng.at(r), **how) for r in rows]


def texts(said: Speculation) -> list[list[int]]:
    return [row[:n] for row, n in zip(said.tokens.tolist(), said.length.tolist(), strict=True)]


@pytest.mark.parametrize("block", [3, Belief(most=5)], ids=["fixed", "drawn"])
@pytest.mark.parametrize(("config", "changes"), KINDS)
def test_rows_say_together_what_each_says_alone(
    config: type[PretrainedConfig], changes: dict[str, Any], block: int | Belief
) -> None:
    nets, given, how = pair(config, **changes), uneven(7), {"block": block, "max_new_tokens": 20}
    together, alone = speculate(*nets, *given, **how), one_by_one(*nets, *given, **how)  # type: ignore[arg-type]
    assert texts(together) == [text for said in alone for text in texts(said)]
    assert [together.calls, together.proposed, together.kept] == [
        sum(getattr(said, name) for said in alone) for name in ("calls", "proposed", "kept")
    ]
    assert 0.3 * together.proposed < together.kept < together.proposed  # rows go on by uneven steps
    assert len({len(t) - n for t, n in zip(texts(together), given[1].tolist(), strict=True)}) > 1  # and end apart


def test_slots_of_refused_tokens_are_closed_up_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nets, given, gathered = pair(eos_token_id=None), uneven(7), forgetting.gathered
    calls: list[Tensor] = []
    monkeypatch.setattr(forgetting, "gathered", lambda cache, at_BT: calls.append(at_BT) or gathered(cache, at_BT))
    said, closed = [], []
    for waste, near in ((1.0, 0), (1.1, 2), (1e9, 0)):
        calls.clear()
        monkeypatch.setattr(speculative, "WASTE", waste)
        monkeypatch.setattr(speculative, "NEAR", near)
        said.append(texts(speculate(*nets, *given, block=4, max_new_tokens=30)))
        closed.append(len(calls))
    assert said[0] == said[1] == said[2]
    assert closed[0] > closed[1] > closed[2] == 0


def test_rows_that_ended_leave_the_batch() -> None:
    target, draft = pair()
    asked: list[int] = []
    target.module.register_forward_pre_hook(lambda _, given: asked.append(len(given[0]["tokens"])))  # type: ignore[union-attr]
    said = speculate(target, draft, *uneven(7), block=2, max_new_tokens=20)
    assert asked[:2] == [1, 7] and asked[2:] == sorted(asked[2:], reverse=True) and len(set(asked[2:])) > 2
    assert sum(asked[2:]) == said.calls


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_as_long_as_the_vocabulary_is_made_in_double(temperature: float) -> None:
    found = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.dtype == torch.float64 and out.numel() >= 5000:
                found.append(func)
            return out

    nets = [llama(seed, ends=True, vocab=5000) for seed in (1, 2)]
    with Watch():
        speculate(*nets, *prompts(2), block=2, temperature=temperature, max_new_tokens=4)
    assert not found


@pytest.mark.parametrize("block", [1, 3])
def test_rows_of_uneven_prompts_and_ends_are_distributed_as_the_target(block: int) -> None:
    # one model, two prompts, an end token that cuts texts short: each row against the probabilities of all its texts
    lms = [CausalLM(tiny(LlamaConfig, seed, vocab_size=V, eos_token_id=3).double()) for seed in (0, 1)]
    target, draft = player("target", lms[0]), player("draft", lms[1])
    n, heads = 900, ([4, 5, 4, 2, 5], [5])
    given = (
        torch.tensor([heads[0], heads[1] + [0] * 4] * n),
        torch.tensor([5, 1] * n),
        Rng(("chi",), torch.arange(2 * n)),
    )
    said = texts(speculate(target, draft, *given, block=block, max_new_tokens=2))
    for i, head in enumerate(heads):
        p = enumerated(target, torch.tensor([head]), 2).sequences[0].exp().view(V, V).numpy()
        ended = np.array([*(p[a, b] for a in range(V) for b in range(V) if a != 3), p[3].sum()])
        index = {(a, b): k for k, (a, b) in enumerate((a, b) for a in range(V) for b in range(V) if a != 3)}
        seen = np.bincount([index.get(tuple(t[len(head) :]), len(index)) for t in said[i::2]], minlength=len(ended))
        assert stats.chisquare(seen, ended / ended.sum() * n).pvalue > 1e-3


@pytest.mark.parametrize("block", [1, 3])
def test_what_it_says_is_distributed_as_the_target(block: int) -> None:
    target, tokens = player("oracle", oracle_lm.oracle(0)), 2
    said = speculate(target, llama(1), *prompts(1500), block=block, max_new_tokens=tokens)
    seen = np.bincount((said.tokens[:, 1] * V + said.tokens[:, 2]).numpy(), minlength=V * V)
    expected = enumerated(target, torch.tensor([[1]]), tokens).sequences[0].exp().numpy() * 1500
    assert stats.chisquare(seen, expected / expected.sum() * seen.sum()).pvalue > 1e-3
    alone = enumerated(llama(1), torch.tensor([[1]]), tokens).sequences[0].exp().numpy() * 1500
    assert stats.chisquare(seen, alone / alone.sum() * seen.sum()).pvalue < 1e-9  # the test can tell


def test_key_value_caches_change_nothing() -> None:
    """With the same draws the block size decides how texts are read, not what they are."""
    target, draft = llama(3, ends=True, vocab=20), llama(4, ends=True, vocab=20)
    texts = [speculate(target, draft, *prompts(12), block=k, max_new_tokens=15).tokens for k in (1, 2, 5, 20)]
    width = max(t.shape[1] for t in texts)
    padded = [nn.functional.pad(t, (0, width - t.shape[1])) for t in texts]
    kept = [sum(torch.equal(a, b) for a, b in zip(padded[0], p, strict=True)) for p in padded]
    assert min(kept) >= 1  # blocks end at different places, where the target speaks by itself
    whole = speculate(target, target, *prompts(12), block=4, max_new_tokens=15)
    assert whole.kept == whole.proposed > 0


def test_greedy_speculation_is_the_greedy_target() -> None:
    target, draft = llama(5, ends=True, vocab=20), llama(6, ends=True, vocab=20)
    tokens, length, rng = prompts(8)
    said = speculate(target, draft, tokens, length, rng, block=3, temperature=0.0, max_new_tokens=12)
    alone, n = sample(target, tokens, length, rng, temperature=0.0, max_new_tokens=12)
    assert torch.equal(said.length, n) and torch.equal(said.tokens, alone)


@pytest.mark.parametrize(("config", "changes"), KINDS)
def test_greedy_rows_of_uneven_prompts_are_those_of_assisted_generation(
    config: type[PretrainedConfig], changes: dict[str, Any]
) -> None:
    (target, draft), (tokens, length, rng) = pair(config, **changes), uneven(6)
    said = speculate(target, draft, tokens, length, rng, block=4, temperature=0.0, max_new_tokens=14)
    lm, assistant = (net.module.lm for net in (target, draft))  # type: ignore[union-attr]
    for b, text in enumerate(texts(said)):
        asked = tokens[b : b + 1, : length[b]]
        how = {"do_sample": False, "max_new_tokens": 14, "attention_mask": torch.ones_like(asked)}
        assert lm.generate(asked, assistant_model=assistant, **how)[0].tolist() == text  # type: ignore[operator]
    alone, n = sample(target, tokens, length, rng, temperature=0.0, max_new_tokens=14)
    assert torch.equal(said.length, n) and torch.equal(said.tokens, alone)
    assert 0 < said.kept < said.proposed


def test_rows_end_where_the_target_ends_them() -> None:
    target = llama(7, ends=True, vocab=8)
    said = speculate(target, llama(8, ends=True, vocab=8), *prompts(64), block=4, max_new_tokens=30)
    for row, n in zip(said.tokens.tolist(), said.length.tolist(), strict=True):
        ends = [i for i, t in enumerate(row[1:n], start=1) if t in target.eos]
        assert ends in ([], [n - 1]) and (ends or n == 31)


def test_the_share_kept_is_one_minus_total_variation() -> None:
    data = {"test": Table(oracle_lm.splits(0, train=8, held_out=512)["test"].columns)}
    players = Players({"teacher": player("teacher", oracle_lm.oracle(0)), "student": llama(1)})
    exact = acceptance()(players, data)
    counted = kept_share(block=1, rows=512, max_new_tokens=6)(players, data)
    assert abs(exact - counted) < 0.04  # 512 rows of three proposals: three standard errors
    assert acceptance()(Players({"teacher": llama(1), "student": llama(1)}), data) == pytest.approx(1.0)


def test_tokens_per_call_reach_the_block_and_one_for_a_perfect_draft() -> None:
    data = {"test": Table(oracle_lm.splits(0, train=8, held_out=6)["test"].columns)}
    players = Players({"teacher": llama(1), "student": llama(1)})
    assert tokens_per_call(block=4, max_new_tokens=10)(players, data) == expected_tokens(1.0, 4) == 5


def test_a_perfect_draft_makes_a_slow_target_faster_and_a_slow_one_does_not() -> None:
    def slow(net: nn.Module, seconds: float) -> Player:
        net.register_forward_pre_hook(lambda _, given: time.sleep(seconds))
        return player("net", net)

    lm, given = tiny(LlamaConfig, eos_token_id=None), (*uneven(3)[:2], Rng(("d",), torch.arange(3)))
    quick, late = slow(CausalLM(lm), 0.0), slow(CausalLM(lm), 0.1)
    worth = as_draft(late, quick, *given, block=4, max_new_tokens=15)
    assert worth["kept"] == 1 and worth["tokens/call"] == 5 and 1.5 < worth["speed-up"] <= 5
    assert as_draft(late, slow(CausalLM(lm), 0.1), *given, max_new_tokens=15)["speed-up"] < 1.1


def test_other_vocabularies_and_empty_blocks_are_refused() -> None:
    with pytest.raises(Mismatch, match=r"draft \(7 tokens\) and target \(6 tokens\)"):
        speculate(llama(0), llama(0, vocab=7), *prompts(1))
    with pytest.raises(BadValue, match="block >= 1"):
        speculate(llama(0), llama(1), *prompts(1), block=0)


def test_nets_that_cannot_take_back_what_they_read_are_refused() -> None:
    heads = {
        "linear_num_key_heads": 1,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    kinds = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8}
    hybrid = player("hybrid", CausalLM(tiny(Qwen3NextConfig, **heads, **experts, **kinds)))
    with pytest.raises(BadValue, match=r"hybrid cannot forget tokens .* LinearAttentionLayer"):
        speculate(hybrid, hybrid, *uneven(2), max_new_tokens=2)


def test_nets_that_read_more_than_tokens_are_refused() -> None:
    target, draft = pair()
    target.module.reads = ("source", "source_length")  # type: ignore[union-attr, assignment]
    with pytest.raises(BadValue, match="target reads source and source_length as well"):
        speculate(target, draft, *uneven(2), max_new_tokens=2)


def test_prompts_without_room_are_refused() -> None:
    nets, (tokens, length, rng) = pair(), uneven(2)
    with pytest.raises(BadData, match="row 1: the prompt is empty"):
        speculate(*nets, tokens, length * torch.tensor([1, 0]), rng, max_new_tokens=2)
    with pytest.raises(BadData, match="exceed the context of target, 64 tokens"):
        speculate(*nets, tokens, length, rng, max_new_tokens=63)
    said = speculate(*nets, tokens, length, rng, max_new_tokens=0)
    assert torch.equal(said.length, length) and said.calls == 0


def test_the_expected_speedup_counts_the_time_of_the_draft() -> None:
    # simulated: proposals are kept independently with .8; a block costs four calls of the draft, of .1 each, and one
    kept = (np.random.default_rng(0).random((200_000, 4)) < 0.8).cumprod(1).sum(1)
    assert expected_speedup(0.8, 4, 0.1) == pytest.approx((kept.mean() + 1) / 1.4, rel=0.005)
