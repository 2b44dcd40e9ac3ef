"""Critical spans against characters counted by hand; a schedule that ends; terms that are cut, by autograd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch, Moment
from limbeck.beds._text import BOS, EOS, Alphabet, columns, tiny_llama
from limbeck.beds.chain import problems, question
from limbeck.beds.hints import solution
from limbeck.errors import BadValue
from limbeck.index import load
from limbeck.kernels.clipped_reverse import clipped_reverse_kl_terms
from limbeck.kernels.divergence import Divergence
from limbeck.part import part
from limbeck.parts.clipped import clipped_forward_kl
from limbeck.parts.policy import clipped_surrogate, recorded
from limbeck.parts.spans import Annotation, annealed, annotated, elsewhere, held, last_line, tokens_of
from limbeck.parts.token import forward_kl
from limbeck.players import Players, build
from limbeck.probes.hint_spans import another_step, step_that_matters
from limbeck.recipe import Learn
from tests.adapters.tiny import byte_tokenizer

ABC = Alphabet("abcdefgh")


def rows(said: list[str]) -> Batch:
    return Batch(columns([[BOS, *ABC.encode("ab")]] * len(said), [[*ABC.encode(text), EOS] for text in said]))


def game(batch: Batch) -> Players:
    net = CausalLM(tiny_llama(ABC.size, 0, width=16, layers=1), ABC.tokenizer())
    return build(load("trace-opd").players, {"student": net}, batch)


@part
def whole(completion: str, row: Mapping[str, Any]) -> Annotation:
    """Mark everything and say how the answer was."""
    return [(0, len(completion))], "good" if row["reward"] else "bad"


@settings(max_examples=50, deadline=None)
@given(st.text("aé ñ€b", min_size=1, max_size=8), st.data())
def test_tokens_are_those_that_write_the_characters(text: str, data: st.DataObject) -> None:
    tokenizer = byte_tokenizer()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    at = data.draw(st.integers(0, len(text) - 1))
    found = tokens_of(tokenizer, tokens, [(at, at + 1)])
    width = [len(c.encode()) for c in text]
    last = sum(width[: at + 1]) - 1  # the byte that completes the character
    assert last in found and set(found) <= set(range(sum(width[:at]), last + 1))
    assert tokens_of(tokenizer, tokens, []) == [] == tokens_of(tokenizer, tokens, [(len(text), len(text) + 3)])


def test_at_most_a_share_of_an_answer_is_marked_by_what_it_was() -> None:
    batch = rows(["abcdefg", "ab", "abcdefg"]).with_(reward=torch.tensor([1.0, 1.0, 0.0]))
    made = annotated(annotator=whole(), most=0.25)(game(batch), batch)
    assert made["span"].sum(1).tolist() == [2, 0, 2] and made["label"] == ["good", "good", "bad"]
    assert made["key"].sum(1).tolist() == [2, 0, 0] and made["error"].sum(1).tolist() == [0, 0, 2]
    assert made["span"][0].nonzero()[:, 0].tolist() == [3, 4]
    with pytest.raises(BadValue, match=r"in \(0, 1\]"):
        annotated(most=0.0)(game(batch), batch)


def test_the_last_line_is_marked() -> None:
    assert last_line()("one\ntwo\n\n", {}) == ([(4, 7)], "the conclusion") and last_line()("", {})[0] == [(0, 0)]


def test_the_schedule_holds_falls_and_is_over() -> None:
    values = [held(value=0.5, hold=10, fall=30)(Moment(step=k - 1)) for k in range(1, 60)]
    assert values[:10] == [0.5] * 10 and values[39:] == [0.0] * 20
    assert all(a - b == pytest.approx(0.5 / 30) for a, b in pairwise(values[9:40]))


def routed(step: int) -> tuple[Players, Batch]:
    batch = rows(["abcdefg", "bcdefgh"]).with_(reward=torch.tensor([1.0, 0.0]), advantage=torch.tensor([0.7, -0.7]))
    players = game(batch)
    with torch.no_grad():
        states = recorded()(players, annotated(annotator=whole())(players, batch))
    players.turn("t", ("student",))
    return players, replace(states, at=Moment(step, 100), memo={})


def slopes(loss: Any, players: Players, batch: Batch) -> list[torch.Tensor]:
    total = torch.stack(list(loss.total(players, replace(batch, memo={})).values())).sum()
    return [g.clone() for g in torch.autograd.grad(total, players.student.params)]


@pytest.mark.parametrize(("step", "same"), [(0, False), (38, False), (39, True), (70, True)])
def test_after_the_schedule_the_gradients_are_exactly_those_of_rewards(step: int, same: bool) -> None:
    (stage,) = load("trace-opd").stages
    assert isinstance(stage, Learn)
    players, batch = routed(step)
    got = slopes(stage.phases[0].loss, players, batch)
    want = slopes(clipped_surrogate(high=0.28), players, batch)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)) is same


def test_at_first_marked_tokens_take_no_reward_and_only_they_are_distilled() -> None:
    (stage,) = load("trace-opd").stages
    players, batch = routed(0)
    weight = elsewhere(share=1.0)(players, batch)
    assert torch.equal(weight, 1 - batch.span.float())
    assert torch.equal(elsewhere(share=0.25)(players, batch), 1 - 0.25 * batch.span.float())
    # each span branch is the mean over the span times its share of the answer: a sum over the answer's length
    assert isinstance(stage, Learn)
    inner = stage.phases[0].loss.children()["kl"].children()["loss"]
    (got,) = annealed(strength=0.5, loss=inner).total(players, batch).values()
    (bare,) = clipped_forward_kl().total(players, batch, batch["key"] / batch["mask"].sum(1, keepdim=True)).values()
    torch.testing.assert_close(got, 0.5 * bare * batch.counts["tokens"] / batch.size)
    assert got.item() != 0


def test_what_has_ended_asks_nobody() -> None:
    players, batch = routed(0)
    nobody = Players({"student": players.student})
    assert annealed(strength=0.0, loss=forward_kl()).total(nobody, batch)["loss"].item() == 0
    with pytest.raises(Exception, match="teacher"):
        annealed(strength=0.1, loss=forward_kl()).total(nobody, batch)


@pytest.mark.parametrize("most", [0.02, 0.2, 10.0])
def test_reverse_terms_are_cut_one_by_one(most: float) -> None:
    student = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 7, dtype=torch.float64)

    def plain(z: torch.Tensor) -> torch.Tensor:
        q, p = z.softmax(-1), teacher.softmax(-1)
        return (q * (q / p).log()).clamp(max=most).sum(-1)

    value, slope = Divergence(clipped_reverse_kl_terms(most))(student.detach().clone(), teacher.clone())
    torch.testing.assert_close(value, plain(student).detach())
    torch.testing.assert_close(slope, torch.autograd.grad(plain(student).sum(), student)[0])
    with pytest.raises(BadValue, match="positive bound"):
        clipped_reverse_kl_terms(0.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.integers(0, 4), st.integers(1, 10))
def test_the_oracle_finds_the_step_that_was_planted(seed: int, at: int, by: int) -> None:
    (problem,) = problems(1, "train", seed)
    asked, steps = question(problem), len(problem) // 2
    at = at % steps
    said = solution(problem, [by if k == at else 0 for k in range(steps)])
    (span,), label = step_that_matters.fn(said, {"question": asked, "reward": 0.0})
    right = solution(problem)
    assert said[slice(*span)] != right[slice(*span)] and said[: span[0]] == right[: span[0]]
    assert label == asked[2 * at + 1]
    (span,), label = step_that_matters.fn(right, {"question": asked, "reward": 1.0})
    assert label == ("*" if "*" in asked else asked[1])
    assert step_that_matters.fn(">" + right.replace(">", ""), {"question": asked, "reward": 1.0})[0] == []
    beside = another_step.fn(said, {"question": asked, "reward": 0.0})
    assert beside[1] == asked[2 * at + 1] and beside[0] == ([(at - 1, at)] if at else [])
