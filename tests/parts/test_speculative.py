"""Speculative decoding says what its target would, however poor the draft."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import oracle_lm
from limbeck.beds._text import tiny_llama
from limbeck.data import Table
from limbeck.errors import BadValue, Mismatch
from limbeck.parts.rollout import sample
from limbeck.parts.speculative import expected_tokens, speculate
from limbeck.players import Player, Players
from limbeck.probes.enumerated import enumerated
from limbeck.probes.speculative import acceptance, kept_share, tokens_per_call
from limbeck.rng import Rng
from limbeck.roles import frozen

V = 6


def player(name: str, net: nn.Module) -> Player:
    return Player(name, frozen(), net.eval())


def llama(seed: int, *, ends: bool = False, vocab: int = V) -> Player:
    return player("llama", CausalLM(tiny_llama(vocab, seed, width=16, layers=2, ends=ends)))


def prompts(rows: int) -> tuple[Tensor, Tensor, Rng]:
    one = torch.ones(rows, dtype=torch.long)
    return one[:, None].clone(), one, Rng(("test",), torch.arange(rows))


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


def test_other_vocabularies_and_empty_blocks_are_refused() -> None:
    with pytest.raises(Mismatch, match=r"draft \(7 tokens\) and target \(6 tokens\)"):
        speculate(llama(0), llama(0, vocab=7), *prompts(1))
    with pytest.raises(BadValue, match="block >= 1"):
        speculate(llama(0), llama(1), *prompts(1), block=0)
