"""Columns, answers and weights handed to other rows and places."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import UnknownName
from limbeck.part import part
from limbeck.parts.curvature import jensen_shannon
from limbeck.parts.scrambled import scrambled
from limbeck.parts.shuffled import misled, shuffled, tossed, weighed_as_another
from limbeck.parts.volume_distillation import volume_matching
from limbeck.players import Player, Players
from limbeck.rng import Rng, numbered
from limbeck.roles import frozen

B = 257


def rows(seed: int = 0, seats: int = 1) -> Batch:
    """Rows that know their place in two columns and a list."""
    place = torch.arange(B * seats)
    columns = {"x": place.float().view(-1, 1), "y": place, "text": [str(i) for i in place.tolist()]}
    return Batch(columns, Rng(("seed", seed), numbered(B * seats, seats)))


def test_columns_move_together_and_the_rest_stays() -> None:
    moved = shuffled(columns=("x", "text"))(None, rows())
    assert moved.y.tolist() == list(range(B))
    assert sorted(moved.text, key=int) == [str(i) for i in range(B)]
    assert [int(v) for v in moved.x[:, 0]] == [int(t) for t in moved.text]


def test_orders_are_random_and_repeat() -> None:
    orders = [shuffled(columns=("y",))(None, rows(seed)).y for seed in range(200)]
    assert orders[0].equal(shuffled(columns=("y",))(None, rows(0)).y)
    stay = torch.stack([(order == torch.arange(B)).sum() for order in orders]).double()
    assert abs(float(stay.mean()) - 1) < 0.3  # a random order keeps one row in its place, with deviation 1
    first = torch.stack([order[0] for order in orders]).double()
    assert abs(float(first.mean()) - (B - 1) / 2) < 4 * B / 12**0.5 / 200**0.5


def test_runs_side_by_side_do_not_mix() -> None:
    y = shuffled(columns=("y",))(None, rows(seats=3)).y.view(3, B)
    for seat in range(3):
        assert y[seat].sort().values.equal(torch.arange(B) + seat * B)


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(UnknownName, match="column"):
        shuffled(columns=("z",))(None, rows())


def says_x(name: str) -> Player:
    """A player that repeats its row."""
    return Player(name, frozen(), answer=lambda batch, want: {w: batch.x for w in want})


def test_a_misled_loss_compares_with_other_rows() -> None:
    players = Players({"student": says_x("student"), "teacher": says_x("teacher")})
    assert volume_matching()(players, rows()).abs().max() == 0
    loss = misled(loss=volume_matching())(players, rows())
    other = shuffled(columns=("x",))(None, rows()).x
    assert loss.shape == (B,)
    assert loss.equal((rows().x - other).square()[:, 0])


def test_a_misled_loss_sees_players_under_their_other_names() -> None:
    players = Players({"scene": says_x("scene"), "critic": says_x("critic")})
    loss = misled(loss=volume_matching()).on(student="scene", teacher="critic")(players, rows())
    assert loss.equal(
        misled(loss=volume_matching())(players.renamed({"student": "scene", "teacher": "critic"}), rows())
    )
    assert loss.max() > 0


def test_a_misled_loss_needs_a_teacher() -> None:
    with pytest.raises(UnknownName, match="teacher"):
        misled()(Players({"student": says_x("student")}), rows())


@part
def two_layers(players: Players, batch: Batch) -> nn.Module:
    """A builder."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 4))


def test_scrambled_weights_are_the_same_numbers() -> None:
    plain, net = (builder(SimpleNamespace(), rows()) for builder in (two_layers(), scrambled(builder=two_layers())))
    for before, after in zip(plain.parameters(), net.parameters(), strict=True):
        assert before.flatten().sort().values.equal(after.flatten().sort().values)
        assert not before.equal(after)
    again = scrambled(builder=two_layers())(SimpleNamespace(), rows())
    assert all(a.equal(b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_a_coin_knows_words_and_nothing_else() -> None:
    marks = torch.tensor([tossed()(str(i), {"answer": str(i)}) for i in range(2000)])
    assert set(marks.tolist()) == {0.0, 1.0}
    assert abs(float(marks.mean()) - 0.5) < 4 * 0.5 / 2000**0.5
    assert marks[7] == tossed()("7", {})


def test_a_curvature_of_other_ratios_is_the_same_curvature() -> None:
    r = torch.rand(B, generator=torch.Generator().manual_seed(0)) + 0.1
    own, others = jensen_shannon()(r), weighed_as_another(of=jensen_shannon())(r)
    assert others[1:].equal(own[:-1])
    assert others[0] == own[-1]
