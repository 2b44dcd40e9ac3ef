"""Mended answers: what stays of them, who goes on, and what is fit to be learnt."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds._text import BOS, EOS, columns
from limbeck.beds.chain import ALPHABET, base, rows
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.mended import completed, from_start, unfinished, well_formed
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import answers
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen


@pytest.fixture(scope="module")
def game() -> Players:
    net = base()
    return Players({name: Player(name, frozen(), net) for name in ("student", "teacher")})


def said(*texts: str, ended: bool = True) -> Batch:
    prompts = [[BOS, *ALPHABET.encode("3+4*2=")]] * len(texts)
    batch = columns(prompts, [[*ALPHABET.encode(t), *[EOS] * ended] for t in texts])
    return Batch({**batch, "answer": ["3"] * len(texts)}, rng=Rng(("mended",), torch.arange(len(texts))))


@part
def threes(players: Players, batch: Batch) -> Batch:
    """Go on with "33" whatever was said."""
    prompts = [t[:n].tolist() for t, n in zip(batch.tokens, batch.prompt, strict=True)]
    return batch.with_(**columns(prompts, [ALPHABET.encode("33")] * batch.size))


def test_the_rest_is_written_anew_from_beyond_the_middle(game: Players) -> None:
    answer = "0123456789"
    made = completed(finish=threes())(game, said(*[answer] * 300, ended=False))
    whole = from_start()(game, made)
    assert (made["asked"] == 7).all() and (whole.prompt == 7).all() and (made.mask.sum(1) == 2).all()
    stays = made.prompt - 7
    # uniform over 5 to 9: each comes 60 times in 300, give or take four deviations
    assert stays.unique().tolist() == [5, 6, 7, 8, 9] and (stays.bincount()[5:] - 60).abs().max() < 28
    assert answers(game.student, made) == ["33"] * 300
    assert answers(game.student, whole) == [answer[:k] + "33" for k in stays.tolist()]
    assert (whole.tokens[:, :7] == said(answer).tokens[:, :7]).all()


@pytest.mark.parametrize("least", [0.0, 0.5, 0.99])
def test_something_stays_and_something_is_asked_for(game: Players, least: float) -> None:
    made = completed(finish=threes(), least=least)(game, said("12", "123", "1", ended=False))
    stays = (made.prompt - made["asked"]).tolist()
    assert len(stays) == 2 and stays[0] == 1 and 1 <= stays[1] <= 2


def test_nothing_is_asked_of_nobody(game: Players) -> None:
    made = completed()(game, said("1", ended=False))
    assert made.size == 0 and "asked" in made and from_start()(game, made).size == 0


def test_a_share_beyond_the_answer_is_refused(game: Players) -> None:
    with pytest.raises(BadValue, match="least"):
        completed(least=1.0)(game, said("12"))


def test_unfinished_and_finished_answers_are_told_apart(game: Players) -> None:
    both = said("12", "345")  # both as long as the first: its end stays, that of the second is cut off
    both = both.with_(tokens=both.tokens[:, :10], mask=both.mask[:, :10], length=torch.tensor([10, 10]))
    assert answers(game.student, unfinished()(game, both)) == ["345"]
    assert answers(game.student, well_formed()(game, both)) == ["12"]


@pytest.mark.parametrize(("n", "times", "kept"), [(2, 3, ["1212", "1111"]), (2, 2, []), (1, 3, ["1212"]), (9, 2, None)])
def test_going_round_in_circles_is_not_well_formed(game: Players, n: int, times: int, kept: list[str] | None) -> None:
    texts = ["1212", "1111", "12121212"]
    # "1212" holds 12 twice; "1111" holds 11 three times; the last holds 12 four times
    want = texts if kept is None else [t for t in kept if t != "1111" or times > 3]
    assert answers(game.student, well_formed(n=n, times=times)(game, said(*texts))) == want


def test_a_player_finishes_what_it_is_given(game: Players) -> None:
    table = rows([(3, 0, 4, 2, 2, 1, 5, 0, 6)] * 32)
    batch = Batch(dict(table.take(torch.arange(32))), rng=Rng(("chain",), torch.arange(32)))
    short = rollout(max_new_tokens=3)(game, batch)
    pipe = unfinished() >> completed(finish=rollout(max_new_tokens=6).on(student="teacher")) >> from_start()
    made = (pipe >> well_formed())(game, short)
    assert unfinished()(game, short).size == 32 and 0 < made.size <= 32
    assert all(len(text) == 4 for text in answers(game.student, made)) and (made.prompt == batch.prompt[0]).all()
