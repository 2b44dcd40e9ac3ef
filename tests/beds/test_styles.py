"""Two writings: problems against Python's own arithmetic, and a base player that is at home in one of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.batch import Batch
from limbeck.beds import styles
from limbeck.beds.styles import REQUEST, abroad, home, read, right_solution, rows, solve, split_of
from limbeck.part import part
from limbeck.parts.rewriting import rewritten
from limbeck.parts.rollout import rollout
from limbeck.players import Player, Players
from limbeck.probes.elsewhere import behind_best, on_split
from limbeck.probes.language import answer_accuracy, nll
from limbeck.rng import Rng
from limbeck.roles import frozen


@part
def anything(completion: str, row: dict) -> float:
    """Mark everything 1.

    1
    """
    return 1.0


DIGIT = st.integers(0, 9)
RIGHT = answer_accuracy(verifier=right_solution(), max_new_tokens=10, limit=64)


@given(DIGIT, st.lists(st.tuples(st.sampled_from("+-*"), DIGIT), min_size=1, max_size=5))
def test_chains_are_solved_as_python_does(first, steps) -> None:
    # evaluated from left to right: every step in brackets of its own
    text, found = str(first), solve(str(first) + "".join(s + str(x) for s, x in steps) + "=")
    for (sign, x), value in zip(steps, found, strict=True):
        text = f"({text} {sign} {x})"
        assert eval(text) % 10 == value


@given(st.lists(DIGIT, min_size=1, max_size=6))
def test_reversals_are_reversed_and_both_writings_are_read(values) -> None:
    asked = "r" + home(values) + "="
    assert solve(asked) == values[::-1]
    assert read(home(values)) == read(abroad(values)) == values
    for write in (home, abroad):
        assert right_solution.fn(write(values[::-1]), {"question": asked}) == 1.0
        assert right_solution.fn(write([*values[::-1], 1]), {"question": asked}) == 0.0


def test_splits_share_no_problem_and_only_the_task_comes_from_abroad() -> None:
    made = {name: table.columns for name, table in styles.splits(3, train=64).items()}
    assert {name: len(c["question"]) for name, c in made.items()} == {"train": 64, "valid": 32, "test": 32, "old": 32}
    for name in ("train", "valid", "test"):
        assert all("-" in q and split_of(q) == name for q in made[name]["question"])
        assert all("." in a for a in made[name]["answer"])
    assert not any("-" in q or "." in a for q, a in zip(made["old"]["question"], made["old"]["answer"], strict=True))


@pytest.fixture(scope="module")
def base() -> Players:
    return Players({"student": Player("student", frozen(), styles.base())})


def test_the_base_player_knows_the_old_and_hardly_the_new(base: Players) -> None:
    data = styles.splits(0, train=256)
    assert on_split(of=RIGHT, split="old")(base, data) > 0.95
    assert 0.05 < RIGHT(base, data) < 0.6
    assert on_split(of=nll(limit=64), split="old")(base, data) < 0.1 < nll(limit=64)(base, data)


def test_the_base_player_writes_what_it_is_shown_even_if_it_is_wrong(base: Players) -> None:
    asked = styles.chains(48, "test", 0, must="-")
    shown = [[(v + 1) % 10 for v in solve(q)] for q in asked]
    at = torch.arange(48)
    table = rows(asked, lambda values: abroad([(v + 1) % 10 for v in values]))
    batch = Batch(dict(table.take(at)), rng=Rng(("restated",), at))
    again = rewritten.fn(
        base, batch, request=REQUEST, said=rollout(max_new_tokens=8, temperature=0.0), verifier=anything()
    )
    said = [styles.ALPHABET.decode(t[m].tolist()) for t, m in zip(again.tokens, again["mask"], strict=True)]
    assert sum(a == home(b) for a, b in zip(said, shown, strict=True)) >= 40


def test_behind_best_is_what_is_lacking(base: Players) -> None:
    half = Player("half", frozen(), styles.base())
    with torch.no_grad():
        for p in half.module.lm.model.layers[-1].parameters():
            p.zero_()
    players, data = Players({"student": base.student, "half": half}), styles.splits(0, train=64)
    data["test"] = data["old"]
    mine, theirs = (nll()(players.renamed({"student": n}), data) for n in ("student", "half"))
    assert behind_best(rivals=("half",), lead=0.1)(players, data) == pytest.approx(max(0.0, mine + 0.1 - theirs))
    swapped = players.renamed({"student": "half", "half": "student"})
    assert behind_best(rivals=("half",))(swapped, data) == pytest.approx(theirs - mine)
