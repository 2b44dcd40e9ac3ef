"""Sentences: cut by hand, weighed by hand; and which answers are chosen for them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.batch import Batch
from limbeck.beds._text import BOS, EOS, columns
from limbeck.beds.arith import ALPHABET
from limbeck.errors import BadData, BadValue
from limbeck.kernels.head import TokenHead
from limbeck.parts.sentences import chosen, sentence_gap, sentence_likelihoods, sentences, teacher_share
from limbeck.parts.transcript import answers
from limbeck.players import Player, Players
from limbeck.roles import cached, frozen


class Known(torch.nn.Module):
    """A net that finds every token as likely as a table says, whatever came before."""

    eos = (EOS,)

    def __init__(self, table: dict[str, float]) -> None:
        super().__init__()
        p = torch.full((ALPHABET.size,), 1e-3, dtype=torch.float64)
        for char, likely in table.items():
            p[ALPHABET.ids[char]] = likely
        self.tokenizer = ALPHABET.tokenizer()
        p[0] = 1 - p[1:].sum()
        self.register_buffer("logits", p.log())

    def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
        hidden = self.logits.expand(*batch["tokens"].shape, -1)
        return {"head": TokenHead(hidden, torch.eye(ALPHABET.size, dtype=torch.float64))}


def game(teacher: dict[str, float], student: dict[str, float]) -> Players:
    nets = {"teacher": Known(teacher), "student": Known(student)}
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def batch_of(*texts: str, prompt: str = "1+1=") -> Batch:
    return Batch(columns([[BOS, *ALPHABET.encode(prompt)]] * len(texts), [ALPHABET.encode(t) for t in texts]))


def test_a_sentence_ends_with_its_sign() -> None:
    players = game({}, {})
    batch = batch_of("1+2;3;>4", "56", ";;")
    found = sentences(players.student, batch, end=";")
    assert [row[mask].tolist() for row, mask in zip(found, batch.mask, strict=True)] == [
        [0, 0, 0, 0, 1, 1, 2, 2], [0, 0], [0, 1],
    ]  # fmt: skip
    assert (found[~batch.mask] == -1).all()
    assert sentences(players.student, batch, end="x").max() == 0


def test_likelihoods_are_geometric_means() -> None:
    players = game({"1": 0.2, "2": 0.05, ";": 0.4}, {})
    batch = batch_of("12;2", "1")
    got = sentence_likelihoods(players.teacher, batch, sentences(players.teacher, batch))
    want = torch.tensor([[(0.2 * 0.05 * 0.4) ** (1 / 3), 0.05], [0.2, math.nan]], dtype=torch.float64)
    torch.testing.assert_close(got, want, equal_nan=True)


def test_scores_are_those_of_the_table() -> None:
    players = game({"1": 0.4, ";": 0.4, "2": 0.1}, {"1": 0.2, ";": 0.2, "2": 0.4})
    batch = batch_of("1;2", "2", "1;1", "1;1;2")
    torch.testing.assert_close(
        sentence_gap()(players, batch), torch.tensor([0.1, 0.0, 0.2, 0.4 / 3], dtype=torch.float64)
    )
    share = teacher_share(margin=0.15)(players, batch)
    torch.testing.assert_close(share, torch.tensor([1 / 2, 0, 1, 2 / 3], dtype=torch.float64))


@given(p=st.lists(st.floats(0.01, 0.3), min_size=4, max_size=4))
def test_the_gap_is_between_nothing_and_one_and_none_from_oneself(p: list[float]) -> None:
    one, other = ({"1": a, ";": b} for a, b in (p[:2], p[2:]))
    texts = ("11;1", ";1;")
    assert ((sentence_gap()(game(one, other), batch_of(*texts)) - 0.5).abs() <= 0.5).all()
    assert (sentence_gap()(game(one, one), batch_of(*texts)) == 0).all()


def test_the_best_answer_to_each_prompt_is_chosen() -> None:
    players = game({"1": 0.4, ";": 0.4}, {"1": 0.1, ";": 0.1})
    one, two = batch_of("22", "1;1", "12"), batch_of("3", "31", prompt="2+2=")
    prompts = [row[:n].tolist() for b in (one, two) for row, n in zip(b.tokens, b.prompt, strict=True)]
    said = [ALPHABET.encode(t) for t in ("22", "1;1", "12", "3", "31")]
    both = Batch(columns(prompts, said))
    assert answers(players.student, chosen()(players, both)) == ["1;1", "31"]
    nothing = both.rows(slice(0, 0))
    assert chosen()(players, nothing).size == 0


def test_a_teacher_may_list_what_it_said_alone() -> None:
    players = game({"1": 0.4, ";": 0.4, "2": 0.1}, {"1": 0.2, ";": 0.2, "2": 0.4})
    batch = batch_of("1;2", "21")
    table = players.teacher.module.logits
    stored = {"listed.ids": batch.tokens[..., None], "listed.logp": table[batch.tokens][..., None]}
    lister = Players({"student": players.student, "teacher": Player("listed", cached(), answer=lambda b, want: {
        w: stored[f"listed.{w}"] for w in want
    })})  # fmt: skip
    torch.testing.assert_close(sentence_gap()(lister, batch), sentence_gap()(players, batch_of("1;2", "21")))
    stored["listed.ids"] = torch.zeros_like(stored["listed.ids"])
    with pytest.raises(BadData, match="does not list token"):
        sentence_gap()(lister, batch_of("1;2", "21"))


def test_sentences_need_a_tokenizer() -> None:
    mute = Player("student", frozen(), torch.nn.Linear(1, 1))
    with pytest.raises(BadValue, match="no tokenizer"):
        sentences(mute, batch_of("1"))
