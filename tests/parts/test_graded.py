"""Narrower students are nets of their own; a teacher of another temperature says softmax(z / temperature)."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.beds import oracle_lm_taught as bed
from limbeck.beds.oracle_lm import oracle, splits
from limbeck.errors import BadValue
from limbeck.parts.graded import Tempered, sized, tempered
from limbeck.players import Player, Players
from limbeck.probes.language import nll
from limbeck.probes.scaling import loss_of, tokens_of, weights_of
from limbeck.roles import frozen

TOKENS = Batch({"tokens": torch.tensor([[1, 2, 3, 0]])})


def capped() -> CausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma2Config(vocab_size=11, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.3, **sizes)
    return CausalLM(Gemma2ForCausalLM(config).eval())


@pytest.mark.parametrize("make", [lambda: oracle(0), capped])
@torch.no_grad()
def test_head_and_logits_are_those_of_the_model_over_the_temperature(make: object) -> None:
    net = make()  # type: ignore[operator]
    z = net(TOKENS, frozenset({"logits"}))["logits"]
    got = Tempered(net, 2.5)(TOKENS, frozenset({"logits", "head"}))
    assert torch.allclose(got["logits"], z / 2.5, atol=1e-6)
    assert torch.allclose(got["head"].logits(), z / 2.5, atol=1e-6)
    assert not list(Tempered(net, 2.5).parameters()) and Tempered(net, 2.5).vocab == net.vocab


def test_a_temperature_must_be_positive() -> None:
    with pytest.raises(BadValue, match="above 0, got 0"):
        Tempered(oracle(0), 0.0)


@torch.no_grad()
def test_every_temperature_but_one_makes_the_truth_worse() -> None:
    game = Players({"teacher": Player("teacher", frozen(), oracle(0))})
    test = {"test": splits(0, train=6)["test"]}
    worse = []
    for temperature in (0.6, 1.0, 2.0, 4.0):
        net = tempered(temperature=temperature)(game, TOKENS)
        worse.append(loss_of(of="it")(Players({"it": Player("it", frozen(), net)}), test))
    assert worse[1] < min(worse[0], worse[2]) and worse[2] < worse[3]
    assert worse[1] == pytest.approx(nll()(Players({"student": Player("student", frozen(), oracle(0))}), test))


def test_a_student_of_half_the_width_has_about_a_quarter_of_the_weights() -> None:
    game = Players({"student": Player("student", frozen(), bed.student(0))})
    counts = []
    for width in (0.25, 0.5, 1.0):
        net = sized(width=width)(game, TOKENS)
        counts.append(weights_of(of="it")(Players({"it": Player("it", frozen(), net)}), {}))
    assert counts[0] < counts[1] < counts[2] and 3.5 < counts[2] / counts[1] < 4.5
    whole = sum(p.numel() for p in bed.student(0).parameters())
    assert counts[2] == whole - 6 * 32  # the table of words, which is the output too


def test_tokens_are_those_that_are_targets() -> None:
    data = splits(0, train=12, held_out=6)
    assert tokens_of()(Players({}), data) == 12 * 6
