"""Drafts that are a part of their target, and the length of what they propose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import GPT2Config, LlamaConfig, PretrainedConfig

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.beds import oracle_lm
from limbeck.data import Table
from limbeck.errors import BadValue
from limbeck.parts.draft_length import Belief
from limbeck.parts.early_exit import early_exit
from limbeck.parts.speculative import speculate
from limbeck.players import Player, Players
from limbeck.probes.drafted import expected_share
from limbeck.probes.enumerated import enumerated
from limbeck.probes.speculative import acceptance
from limbeck.rng import Rng
from limbeck.roles import frozen
from tests.adapters.test_causal_lm import TOKENS, tiny
from tests.parts.test_speculative import V, llama, player, prompts


def teacher(config: type[PretrainedConfig], layers: int = 4) -> Player:
    return Player("teacher", frozen(), CausalLM(tiny(config, 0, num_hidden_layers=layers)))


@pytest.mark.parametrize(("config", "learn"), [(LlamaConfig, ("layers.2.", "norm.")), (GPT2Config, ("h.2.", "ln_f."))])
def test_the_draft_is_the_first_layers_and_only_the_exit_learns(
    config: type[PretrainedConfig], learn: tuple[str, ...]
) -> None:
    deep = teacher(config)
    draft = early_exit(layers=2)(Players({"teacher": deep}), Batch({"tokens": TOKENS}))
    assert draft.vocab == deep.vocab and draft.eos == deep.eos
    theirs = dict(deep.module.named_parameters())  # type: ignore[union-attr]
    free = {n for n, p in draft.named_parameters() if p.requires_grad}
    assert free and all(any(f".{part}" in n for part in learn) for n in free)
    assert {part for part in learn if any(f".{part}" in n for n in free)} == set(learn)
    assert all(torch.equal(p, theirs[n]) and p is not theirs[n] for n, p in draft.named_parameters())
    tap = f"tap:{'model.layers' if config is LlamaConfig else 'transformer.h'}.1"
    batch = {"tokens": TOKENS}
    torch.testing.assert_close(draft(batch, frozenset({tap}))[tap], deep.module(batch, frozenset({tap}))[tap])  # type: ignore[misc]


def test_an_exit_after_all_layers_is_refused() -> None:
    for layers in (0, 4):
        with pytest.raises(BadValue, match="1 <= layers < 4"):
            early_exit(layers=layers)(Players({"teacher": teacher(LlamaConfig)}), Batch({"tokens": TOKENS}))


def test_the_belief_is_the_posterior_of_bernoulli_trials() -> None:
    # the mean of Beta(a, b) times theta^kept (1 - theta)^refused, by integration over a grid
    belief, theta = Belief(2.0, 3.0), np.linspace(0.0, 1.0, 200_001)
    density = theta * (1 - theta) ** 2
    for kept, proposed in ((3, 4), (0, 0), (2, 2), (0, 5), (1, 2)):
        belief.learn(kept, proposed)
        density = density * theta**kept * (1 - theta) ** (kept < proposed)
    assert belief.mean == pytest.approx((theta * density).sum() / density.sum(), abs=1e-6)


def test_lengths_are_distributed_as_with_a_share_drawn_before_every_token() -> None:
    # the two draws of the paper, simulated: theta' from the Beta distribution, then a coin with theta'
    n, rng = 20_000, np.random.default_rng(0)
    belief = Belief(3.0, 2.0, most=4)
    goes_on = rng.random((n, 4)) < rng.beta(3.0, 2.0, (n, 4))
    wanted = np.bincount(goes_on.cumprod(1).sum(1), minlength=5)
    u = Rng(("lengths",), torch.arange(n)).uniform("u", 4)
    drawn = np.bincount([belief.draw(row) for row in u], minlength=5)
    assert stats.chi2_contingency(np.stack([wanted, drawn])).pvalue > 1e-3
    assert stats.chisquare(drawn, n * np.array([*(0.4 * 0.6 ** np.arange(4)), 0.6**4])).pvalue > 1e-3


def test_senseless_beliefs_are_refused() -> None:
    for wrong in ({"a": 0.0}, {"b": -1.0}, {"most": 0}):
        with pytest.raises(BadValue, match="a, b > 0 and most >= 1"):
            Belief(**wrong)


def test_drawn_lengths_leave_the_distribution_of_the_target() -> None:
    target, tokens, belief = player("oracle", oracle_lm.oracle(0)), 2, Belief(most=3)
    said = speculate(target, llama(1), *prompts(900), block=belief, max_new_tokens=tokens)
    assert belief == Belief(most=3)  # every row learns for itself
    seen = np.bincount((said.tokens[:, 1] * V + said.tokens[:, 2]).numpy(), minlength=V * V)
    expected = enumerated(target, torch.tensor([[1]]), tokens).sequences[0].exp().numpy() * 900
    assert stats.chisquare(seen, expected / expected.sum() * seen.sum()).pvalue > 1e-3


def test_a_perfect_draft_is_soon_trusted_and_a_useless_one_is_not() -> None:
    target = llama(1)
    trusted = speculate(target, target, *prompts(2), block=Belief(most=6), max_new_tokens=40)
    assert trusted.kept == trusted.proposed and 80 / trusted.calls > 3.5
    useless = llama(2)
    with torch.no_grad():
        for p in useless.params:
            p.mul_(50.0)
    doubted = speculate(target, useless, *prompts(2), block=Belief(most=6), max_new_tokens=40)
    fixed = speculate(target, useless, *prompts(2), block=6, max_new_tokens=40)
    assert doubted.proposed < 0.4 * fixed.proposed


def test_the_expected_share_is_that_of_enumeration() -> None:
    data = {"test": Table(oracle_lm.splits(0, train=8, held_out=512)["test"].columns)}
    players = Players({"teacher": player("teacher", oracle_lm.oracle(0)), "student": llama(1)})
    share = expected_share(rows=512, max_new_tokens=6)(players, data)
    assert abs(share - acceptance()(players, data)) < 0.01
    alike = Players({name: replace(players["teacher"], name=name) for name in players})
    assert expected_share(rows=8)(alike, data) == pytest.approx(1)
