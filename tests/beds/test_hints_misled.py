"""The chains with wrong facts: what is planted, by hand, and the base player as it was misled."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.batch import Batch
from limbeck.beds.chain import problems, question
from limbeck.beds.hints import HINT, right_answer, solution, steps_right
from limbeck.beds.hints_misled import base, bed, believed, traps
from limbeck.parts.context import told
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import answers, marks
from limbeck.players import Player, Players
from limbeck.roles import frozen


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 500), st.data())
def test_a_solution_is_wrong_where_a_wrong_fact_is_used(seed: int, data: st.DataObject) -> None:
    (problem,) = problems(1, "train", seed)
    falls = data.draw(st.lists(st.booleans(), min_size=len(problem) // 2, max_size=len(problem) // 2))
    assert steps_right(question(problem), believed(problem, falls)) == [not fall for fall in falls]
    assert believed(problem, [False] * len(falls)) == solution(problem)


def test_only_products_are_traps() -> None:
    for problem in problems(50, "train", 1):
        asked = question(problem)
        want = [a == "*" and b not in "01" for a, b in zip(asked[1::2], asked[2::2], strict=False)]
        assert traps(problem) == want


KNOWN = {"": (0.3, 0.55), "solution": (0.9, 1.0), "reference": (0.85, 1.0)}


@pytest.mark.parametrize("kind", KNOWN)
def test_the_base_player_is_misled_unless_it_is_told(kind: str) -> None:
    table = bed.data(0)["test"]
    batch = Batch(dict(table.take(torch.arange(256))))
    players = Players({"student": Player("student", frozen(), base())})
    texts = {"": [""] * batch.size, "solution": batch["solution"], "reference": answers(players.student, batch)}
    asked = told(column="hint", template=HINT)(players, batch.with_(hint=texts[kind]))
    right = float(
        marks(answers(players.student, rollout(max_new_tokens=8)(players, asked)), batch, right_answer()).mean()
    )
    least, most = KNOWN[kind]
    assert least <= right <= most
