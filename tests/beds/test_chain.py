"""The chains: their solutions against Python's own arithmetic, and the base player as it was planted."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.batch import Batch
from limbeck.beds import chain
from limbeck.beds.chain import VALUES, base, bed, question, right_answer, solution, splits, steps_right
from limbeck.parts.transcript import answers, marks
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

PROBLEMS = st.integers(1, 6).flatmap(
    lambda k: st.tuples(
        *(part for _ in range(k) for part in (st.integers(0, 10), st.integers(0, 2))), st.integers(0, 10)
    )
)


@settings(max_examples=200, deadline=None)
@given(PROBLEMS)
def test_the_answer_is_that_of_python(problem) -> None:
    # evaluated from left to right: every step in brackets of its own
    asked, solved = question(problem), solution(problem)
    text = str(problem[0])
    for sign, value in zip(problem[1::2], problem[2::2], strict=True):
        text = f"({text} {'+-*'[sign]} {value})"
    assert VALUES.index(solved[-1]) == eval(text) % 11
    assert all(steps_right(asked, solved)) and right_answer.fn(solved, {"question": asked, "answer": solved[-1]}) == 1


@settings(max_examples=200, deadline=None)
@given(PROBLEMS, st.data())
def test_one_planted_slip_is_found_where_it_was_made(problem, data) -> None:
    steps = len(problem) // 2
    at, by = data.draw(st.integers(0, steps - 1)), data.draw(st.integers(1, 10))
    slips = [by if i == at else 0 for i in range(steps)]
    # later steps go on from the wrong value and are right in themselves
    assert steps_right(question(problem), solution(problem, slips)) == [i != at for i in range(steps)]


def test_splits_share_no_problem() -> None:
    asked = {name: set(table.take(torch.arange(len(table)))["question"]) for name, table in splits(0).items()}
    assert [len(asked[s]) for s in ("train", "valid", "test")] == [1024, 512, 512]
    assert not asked["train"] & asked["test"] and not asked["valid"] & (asked["train"] | asked["test"])


def test_too_long_or_foreign_completions_are_wrong() -> None:
    assert not any(steps_right("3+4=", "77")) and not any(steps_right("3+4=", "+"))
    assert right_answer.fn("77", {"question": "3+4=", "answer": "7"}) == 0


def test_the_base_player_errs_and_repeats_itself_as_planted() -> None:
    table = bed.data(0)["test"]
    rows = torch.arange(len(table))
    players = Players({"student": Player("student", frozen(), base())})
    batch = chain.TURNS(players, Batch(dict(table.take(rows)), rng=Rng(("base",), rows)))
    first, second = batch["first"], answers(players.student, batch)
    # a step is right with probability 0.82, so the answer about half the time (a slip can be made good by chance)
    assert 0.45 < float(marks(first, batch, right_answer()).mean()) < 0.6
    assert 0.8 < sum(a == b for a, b in zip(first, second, strict=True)) / len(first) < 0.9
