"""Answers of a mixture: drawn from it, scored by it, and those of one player at the ends."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.beds._text import ExactLM, columns
from limbeck.beds.oracle_lm import Topics, V
from limbeck.errors import BadValue, Mismatch
from limbeck.parts.mixture_sampling import Mixture, mixed_rollout, scored
from limbeck.parts.policy import recorded
from limbeck.parts.rollout import rollout
from limbeck.players import Player, Players
from limbeck.roles import frozen
from tests.adapters.test_causal_lm import tiny, tokenizer

ASKED = Batch(columns([[2, 5], [2, 7, 9, 4], [2]] * 3, [[6, 8, 1], [4, 1], [1]] * 3))


def pair() -> Players:
    nets = {"student": CausalLM(tiny(LlamaConfig, 0)), "teacher": CausalLM(tiny(GPT2Config, 1))}
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


@pytest.mark.parametrize(("share", "speaker"), [(0.0, "student"), (1.0, "teacher")])
def test_at_the_ends_one_player_speaks_as_it_would_alone(share: float, speaker: str) -> None:
    players = pair()
    alone = rollout(max_new_tokens=6).on(student=speaker)(players, ASKED)
    got = mixed_rollout(share=share, max_new_tokens=6)(players, ASKED)
    assert torch.equal(got["tokens"], alone["tokens"]) and torch.equal(got["mask"], alone["mask"])
    torch.testing.assert_close(got["logp_old"], got[f"logp_{speaker}"])


def test_tokens_come_as_often_as_the_mixture_has_them() -> None:
    n, share = 20_000, 0.3
    players = Players(
        {name: Player(name, frozen(), ExactLM(Topics(s), V)) for s, name in enumerate(("student", "teacher"))}
    )
    asked = Batch(columns([[3]] * n, [[0, 0]] * n))
    got = mixed_rollout(share=share, max_new_tokens=2)(players, asked)
    q, p = (players[name].module.rule.double() for name in ("student", "teacher"))
    first = torch.tensor([[3]])
    seen = torch.ones(1, 2, dtype=torch.bool)
    truth = torch.zeros(V, V, dtype=torch.float64)
    mix = share * p(first, seen[:, :1]).exp()[0, 0] + (1 - share) * q(first, seen[:, :1]).exp()[0, 0]
    for a in range(V):
        both = torch.tensor([[3, a]])
        truth[a] = mix[a] * (share * p(both, seen).exp()[0, 1] + (1 - share) * q(both, seen).exp()[0, 1])
    counts = torch.zeros(V * V, dtype=torch.float64)
    counts.index_add_(0, got["tokens"][:, 1] * V + got["tokens"][:, 2], torch.ones(n, dtype=torch.float64))
    expected = n * truth.flatten()
    assert float(((counts - expected).square() / expected).sum()) < 70  # 35 degrees of freedom: 1 in 2,500
    torch.testing.assert_close(
        got["logp_old"].sum(1).exp().double(), truth.flatten()[got["tokens"][:, 1] * V + got["tokens"][:, 2]]
    )


def test_it_is_scored_by_what_each_says_of_the_very_tokens() -> None:
    players = pair()
    got = mixed_rollout(share=0.4, max_new_tokens=5)(players, ASKED)
    for name in ("student", "teacher"):
        alone = recorded().on(student=name)(players, got)["logp_old"]
        torch.testing.assert_close(got[f"logp_{name}"], alone)
    both = 0.4 * got["logp_teacher"].exp() + 0.6 * got["logp_student"].exp()
    torch.testing.assert_close(got["logp_old"], both.log().where(got["mask"], 0.0))
    assert not any(got[k].requires_grad for k in ("logp_old", "logp_student", "logp_teacher"))


def test_padding_of_the_output_matrix_is_left_out_on_both_sides() -> None:
    shared = tokenizer(37)
    student = CausalLM(tiny(LlamaConfig, 0, vocab_size=40), shared)
    players = Players(
        {
            "student": Player("s", frozen(), student),
            "teacher": Player("t", frozen(), CausalLM(tiny(LlamaConfig, 1), shared)),
        }
    )
    assert Mixture(student, players.teacher.module, 0.5).vocab == 37
    made = scored()(players, mixed_rollout(share=0.5, max_new_tokens=4)(players, ASKED))
    assert int(made["tokens"].max()) < 37


def test_what_cannot_be_mixed_is_refused() -> None:
    players = pair()
    with pytest.raises(BadValue, match=r"share of a mixture must be in \[0, 1\], got 1.5"):
        mixed_rollout(share=1.5)(players, ASKED)
    other = Player("teacher", frozen(), CausalLM(tiny(LlamaConfig, 1, vocab_size=31)))
    with pytest.raises(Mismatch, match="different tokenizers"):
        mixed_rollout()(Players({**players, "teacher": other}), ASKED)
