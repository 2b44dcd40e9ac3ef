"""Losses and answers in a context against rows that are written with the context by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.beds._text import BOS, EOS, Alphabet, columns, tiny_llama
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.context import told
from limbeck.parts.informed import noted, noted_under, said_under, under
from limbeck.parts.optimizer import sgd
from limbeck.parts.policy import clipped_surrogate
from limbeck.parts.revision import attempted
from limbeck.parts.rollout import rollout
from limbeck.parts.subset import every_nth
from limbeck.parts.token import cross_entropy
from limbeck.players import Players, build
from limbeck.roles import learning

ABC = Alphabet("abcdefgh:")
TEXTS = st.text("defgh", min_size=1, max_size=4)
HINT = told(column="hint", template=":{told}")


def rows(prompts: list[str], completions: list[str]) -> Batch:
    return Batch(columns([[BOS, *ABC.encode(p)] for p in prompts], [[*ABC.encode(c), EOS] for c in completions]))


def game(net: CausalLM) -> Players:
    return build({"student": learning(sgd())}, {"student": net}, rows(["d"], ["e"]))


PLAYERS = game(CausalLM(tiny_llama(ABC.size, 0, width=16, layers=2).double(), ABC.tokenizer()))
PLAYERS.turn("t", ("student",))


def slopes(total: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, PLAYERS.student.params)])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, st.one_of(st.just(""), TEXTS), st.floats(-2, 2)), min_size=1, max_size=3))
def test_a_loss_under_a_context_is_that_of_rows_written_with_it(found: list[tuple[str, str, str, float]]) -> None:
    prompts, completions, hints, good = (list(column) for column in zip(*found, strict=True))
    batch = rows(prompts, completions).with_(hint=hints, advantage=torch.tensor(good, dtype=torch.float64))
    old = torch.where(batch.mask, -1.0, 0.0).double() * torch.arange(batch.mask.shape[1])  # one number a token
    batch, by_hand = (
        batch.with_(logp_old=old),
        rows([p + (f":{h}" if h else "") for p, h in zip(prompts, hints, strict=True)], completions),
    )
    by_hand = by_hand.with_(advantage=batch.advantage, logp_old=torch.zeros(by_hand.mask.shape).double())
    by_hand["logp_old"][by_hand.mask] = old[batch.mask]
    weight = torch.arange(batch.mask.numel()).view(batch.mask.shape).double()
    other = torch.zeros(by_hand.mask.shape).double().masked_scatter(by_hand.mask, weight[batch.mask])
    hyper = {"context": HINT, "loss": cross_entropy() + clipped_surrogate()}
    got = under(**hyper).spec.fn(PLAYERS, batch, weight, **hyper)
    want = cross_entropy.fn(PLAYERS, by_hand, other) + clipped_surrogate.fn(PLAYERS, by_hand, other)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(slopes(got), slopes(want))


def test_a_batch_in_pieces_gives_the_sum_of_theirs() -> None:
    batch = rows(["de", "d", "ge"], ["fg", "h", "hhh"]).with_(hint=["g", "", "hh"])
    loss = under(context=HINT)
    whole = sum(loss.total(PLAYERS, batch).values())
    pieces = sum(v for at in (slice(0, 1), slice(1, 3)) for v in loss.total(PLAYERS, batch.rows(at)).values())
    torch.testing.assert_close(whole, pieces)
    plain = rows(["de:g", "d", "ge:hh"], ["fg", "h", "hhh"])
    torch.testing.assert_close(whole, sum(cross_entropy().total(PLAYERS, plain).values()))


def test_what_is_noted_is_the_log_probability_with_and_without_the_hint() -> None:
    batch = rows(["de", "d"], ["fg", "h"]).with_(hint=["g", "hh"])
    for made, column, prompts in (
        (noted()(PLAYERS, batch), "logp_plain", ["de", "d"]),
        (noted_under(context=HINT)(PLAYERS, batch), "logp_old", ["de:g", "d:hh"]),
    ):
        for b, (prompt, completion) in enumerate(zip(prompts, ["fg", "h"], strict=True)):
            one = rows([prompt], [completion])
            logp = PLAYERS.student(one, "logits").log_softmax(-1)[0, :-1].gather(-1, one.tokens[0, 1:, None])[:, 0]
            torch.testing.assert_close(made[column][b][batch.mask[b]], logp[one.mask[0, 1:]].detach())
        assert not made[column][~batch.mask].any()


@part
def echo(players: Players, batch: Batch) -> Batch:
    """Answer with the last token of the prompt, twice for the first row."""
    last = batch.tokens[torch.arange(batch.size), batch.prompt - 1]
    table = columns(
        [row[:n].tolist() for row, n in zip(batch.tokens, batch.prompt.tolist(), strict=True)],
        [[x] * (2 - i) for i, x in enumerate(last.tolist())],
    )
    return batch.with_(**table)


def test_answers_given_under_a_context_stand_behind_the_plain_prompt() -> None:
    batch = rows(["de", "dgg"], ["f", "ffff"]).with_(hint=["gh", "e"])
    made = said_under(context=HINT, on_policy=echo())(PLAYERS, batch)
    assert [ABC.decode(row[:n].tolist()) for row, n in zip(made.tokens, made.length.tolist(), strict=True)] == [
        "dehh",
        "dgge",
    ]
    assert made.mask.sum(1).tolist() == [2, 1] and made.prompt.tolist() == batch.prompt.tolist()
    assert made.counts["tokens"] == 3 and "place" not in made


def test_the_second_answer_is_drawn_anew() -> None:
    n = 64
    batch = rows(["d"] * n, ["e"] * n).with_(hint=[""] * n)
    first = rollout(max_new_tokens=1)(PLAYERS, batch)
    again = said_under(context=HINT, on_policy=rollout(max_new_tokens=1))(PLAYERS, first)
    assert (first.tokens[:, -1] != again.tokens[:, -1]).float().mean() > 0.5
    told_nothing = said_under(context=HINT, on_policy=rollout(max_new_tokens=1))(PLAYERS, batch)
    assert torch.equal(told_nothing.tokens, again.tokens)


def test_attempts_are_told_with_their_marks() -> None:
    batch = rows(["de", "d", "d"], ["fg", "h", "g"]).with_(reward=torch.tensor([1.0, 0.0, 0.5]))
    assert attempted(right=".", wrong="!")(PLAYERS, batch)["attempt"] == ["fg.", "h!", "g!"]
    made = attempted(column="c", least=0.5)(PLAYERS, batch)["c"]
    assert made[0].startswith("fg") and "wrong" in made[1] and "correct" in made[2]


def test_one_row_in_n_is_kept() -> None:
    batch = replace(rows(["d"] * 7, ["e"] * 7).with_(i=torch.arange(7)))
    assert every_nth(n=3)(None, batch).i.tolist() == [0, 3, 6]
    with pytest.raises(BadValue, match="n >= 1"):
        every_nth(n=0)(None, batch)
