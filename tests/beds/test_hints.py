"""The chains with hints: solutions in two styles against each other, and the base player as it was planted."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.assets.build_hints import SHARES, told
from limbeck.batch import Batch
from limbeck.beds import chain, hints
from limbeck.beds.hints import HINT, SLIPS, base, bed, reference, right_answer, solution, steps_right
from limbeck.parts.context import told as telling
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import answers, marks
from limbeck.players import Player, Players
from limbeck.roles import frozen

PROBLEMS = st.integers(2, 5).flatmap(
    lambda k: st.tuples(
        *(part for _ in range(k) for part in (st.integers(0, 10), st.integers(0, 2))), st.integers(0, 10)
    )
)


@settings(max_examples=100, deadline=None)
@given(PROBLEMS)
def test_both_styles_tell_the_values_of_the_chain(problem: chain.Problem) -> None:
    right = chain.solution(problem)
    assert solution(problem).replace(">", "") == right and reference(problem)[:0:-1] == right
    row = {"answer": right[-1]}
    assert right_answer.fn(solution(problem), row) == right_answer.fn(reference(problem), row) == 1
    assert all(steps_right(chain.question(problem), solution(problem)))
    assert not any(steps_right(chain.question(problem), reference(problem)))


@settings(max_examples=50, deadline=None)
@given(PROBLEMS, st.sampled_from(list(SHARES)), st.integers(0, 1000))
def test_hints_are_of_the_alphabet_and_tell_as_much_as_they_say(problem: chain.Problem, kind: str, seed: int) -> None:
    know, steps = told(kind, problem, random.Random(seed)), len(problem) // 2
    assert hints.ALPHABET.decode(hints.ALPHABET.encode(know.hint)) == know.hint
    assert len(know.slips) == steps and max(know.slips) <= SLIPS
    if kind == "reference":
        assert know.slips.count(0.0) == len(know.hint) - 1
    if kind == "operation":
        assert know.slips.count(0.0) == chain.question(problem).count(know.hint)


# what is planted, within sampling error and what the player did not learn: (hint, least, most)
KNOWN = {"": (0.45, 0.6), "reference": (0.9, 1.0), "solution": (0.95, 1.0)}


@pytest.mark.parametrize("kind", KNOWN)
def test_the_base_player_knows_more_when_it_is_told_more(kind: str) -> None:
    table = bed.data(0)["test"]
    batch = Batch(dict(table.take(torch.arange(len(table)))))
    players = Players({"student": Player("student", frozen(), base())})
    texts = {"": [""] * batch.size, "solution": batch["solution"], "reference": answers(players.student, batch)}
    asked = telling(column="hint", template=HINT)(players, batch.with_(hint=texts[kind]))
    said = answers(players.student, rollout(max_new_tokens=8)(players, asked))
    right = float(marks(said, batch, right_answer()).mean())
    least, most = KNOWN[kind]
    assert least <= right <= most
