"""Players: what they answer, what they remember, and what they refuse."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue, BrokenRecipe, Mismatch, UnknownName
from limbeck.part import part
from limbeck.players import Player, Players, build, copied
from limbeck.roles import Role, built, cached, copy_of, ema_of, ensemble, frozen, learning, self_under
from tests.conftest import Net


@part
def sgd(params: list[Tensor], *, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr)


@part
def doubled(players: Players, batch: Batch, *, by: float = 2.0) -> Batch:
    return batch.with_(x=by * batch.x)


@part
def mirror(players: Players, batch: Batch) -> nn.Module:
    """Build a net as wide as the student's features."""
    return nn.Linear(players.student(batch, "features").shape[1], 2)


class Headed(nn.Module):
    """A net whose answer is no tensor."""

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        return {"head": {"weight": batch["x"]}}


@pytest.fixture
def batch() -> Batch:
    return Batch({"x": torch.randn(4, 2, generator=torch.Generator().manual_seed(0))})


def test_one_want_gives_the_answer_and_several_a_tuple_in_the_order_asked(batch: Batch) -> None:
    net = Net()
    player = Player("student", frozen(), net)
    features, logits = player(batch, "features", "logits")
    torch.testing.assert_close(logits, net.body(batch.x))
    torch.testing.assert_close(features, net.body[0](batch.x))
    assert player(batch, "logits") is logits


def test_an_answer_that_the_net_cannot_give_names_those_it_can(batch: Batch) -> None:
    with pytest.raises(UnknownName, match=r"unknown answer 'logit' in player student; did you mean 'logits'\?"):
        Player("student", frozen(), Net())(batch, "logit")


def test_a_batch_is_asked_once_and_a_changed_batch_anew(batch: Batch) -> None:
    net = Net()
    player = Player("student", frozen(), net)
    first = player(batch, "logits")
    assert player(batch, "logits") is first and net.calls == 1
    other = player(batch.with_(x=batch.x + 1), "logits")
    assert net.calls == 2 and not torch.equal(other, first)


def test_public_attributes_are_those_of_the_net_and_private_ones_are_not() -> None:
    net = Net()
    player = Player("student", frozen(), net)
    assert player.body is net.body
    for name in ("_parameters", "no_such_attribute"):
        with pytest.raises(AttributeError):
            getattr(player, name)
    with pytest.raises(AttributeError):
        Player("mixed", ensemble("a", "b")).body  # noqa: B018 - a player without a net has no attributes to pass on


def test_turn_decides_mode_and_gradients_but_frozen_weights_stay_frozen() -> None:
    net = Net()
    net.body[0].weight.requires_grad_(False)
    player = Player("student", frozen(), net)
    player.turn("learn", True)
    assert net.training
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]
    player.turn("probe", False)
    assert not net.training and not any(p.requires_grad for p in net.parameters())


class Still(nn.Linear):
    """A layer that never goes into training mode."""

    def train(self, mode: bool = True) -> Still:
        return super().train(False)


@pytest.mark.parametrize("inner", [nn.Linear, Still])
def test_every_layer_goes_into_the_mode_that_it_would_go_into_by_itself(inner: type[nn.Linear]) -> None:
    net = nn.Sequential(nn.Sequential(inner(2, 2), nn.Dropout()), nn.BatchNorm1d(2))
    player = Player("student", learning(sgd()), net)
    for learns in (False, True):
        player.turn("fit", learns)
        found = [m.training for m in net.modules()]
        assert found == [m.training for m in copy.deepcopy(net).train(learns).modules()]


def test_version_grows_with_weights_and_buffers() -> None:
    net = nn.BatchNorm1d(2)
    player = Player("student", frozen(), net)
    versions = [player.version()]
    with torch.no_grad():
        net.weight.mul_(2)
    versions.append(player.version())
    net.running_mean.add_(1)
    versions.append(player.version())
    assert versions == sorted(set(versions))


def test_load_takes_weights_in_place_and_refuses_those_that_do_not_fit() -> None:
    mine, theirs = Net(seed=0), Net(seed=1)
    player = Player("student", frozen(), mine)
    storage = mine.body[0].weight.data_ptr()
    player.load(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert mine.body[0].weight.data_ptr() == storage and player.changed
    with pytest.raises(Mismatch, match=r"'student' cannot take these weights: they differ at 'body.0.weight'"):
        player.load(Net(width=5).state_dict())
    with pytest.raises(Mismatch, match="they differ at 'more'"):
        player.load({**theirs.state_dict(), "more": torch.zeros(1)})


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9, 1.0])
def test_following_is_the_moving_average_by_hand(decay: float) -> None:
    mine, theirs = Net(seed=0), Net(seed=1)
    expected = [decay * a.detach() + (1 - decay) * b.detach() for a, b in zip(mine.parameters(), theirs.parameters(),
                                                                              strict=True)]  # fmt: skip
    Player("ema", ema_of("student", decay=decay), mine).follow(Player("student", frozen(), theirs))
    torch.testing.assert_close([p.detach() for p in mine.parameters()], expected)


def test_following_copies_buffers() -> None:
    mine, theirs = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    theirs.running_var.fill_(7.0)
    Player("ema", ema_of("student", decay=0.99), mine).follow(Player("student", frozen(), theirs))
    assert mine.running_var.tolist() == [7.0] * 3


# -- the game ---------------------------------------------------------------------------------------------------------


def game(**roles: Role) -> dict[str, Role]:
    return {"student": learning(sgd()), **roles}


def test_a_player_that_is_not_given_is_named_with_all_that_are_needed(batch: Batch) -> None:
    with pytest.raises(BadValue, match="'teacher' must be given; this recipe needs student, teacher"):
        build(game(teacher=frozen()), {"student": Net()}, batch)


def test_players_made_from_each_other_in_a_circle_are_refused(batch: Batch) -> None:
    with pytest.raises(BrokenRecipe, match="a, b are made from each other in a circle"):
        build({"a": copy_of("b"), "b": copy_of("a")}, {}, batch)


def test_a_built_player_can_be_followed(batch: Batch) -> None:
    roles = {
        "average": ema_of("head", decay=0.5),
        "head": built(mirror()),
        "student": frozen(),
        "old": copy_of("student"),
    }
    players = build(roles, {"student": Net()}, batch)
    for mine, theirs in zip(players.average.params, players.head.params, strict=True):
        assert torch.equal(mine, theirs) and mine is not theirs


def test_players_keep_the_order_of_the_recipe_whatever_they_are_made_from(batch: Batch) -> None:
    roles = {"last": copy_of("middle"), "middle": copy_of("student"), "student": frozen()}
    players = build(roles, {"student": Net()}, batch)
    assert list(players) == ["last", "middle", "student"] and len(players) == 3
    torch.testing.assert_close(players.last(batch, "logits"), players.student(batch, "logits"))
    assert players.last.module is not players.student.module


def test_an_unknown_player_says_who_there_is(batch: Batch) -> None:
    players = build(game(teacher=frozen()), {"student": Net(), "teacher": Net(seed=1)}, batch)
    with pytest.raises(UnknownName, match=r"unknown player 'teachr' in this run; did you mean 'teacher'"):
        players.teachr  # noqa: B018
    assert "teacher" in players and "critic" not in players
    with pytest.raises(AttributeError):
        players._hidden  # noqa: B018


def test_renamed_players_are_the_same_players_under_other_names(batch: Batch) -> None:
    players = build(game(teacher=frozen()), {"student": Net(), "teacher": Net(seed=1)}, batch)
    swapped = players.renamed({"student": "teacher", "oracle": "teacher"})
    assert swapped.student is players.teacher and swapped.oracle is players.teacher
    assert swapped.renamed({"judge": "student"}).judge is players.teacher
    assert players.student is not players.teacher and "oracle" in swapped and "oracle" not in players
    with pytest.raises(UnknownName, match="unknown player 'nobody'"):
        players.renamed({"student": "nobody"})


def test_an_ensemble_answers_with_the_mean_and_refuses_what_has_none(batch: Batch) -> None:
    nets = {"student": Net(), "one": Net(seed=1), "two": Net(seed=2)}
    players = build(game(one=frozen(), two=frozen(), both=ensemble("one", "two")), nets, batch)
    expected = (nets["one"].body(batch.x) + nets["two"].body(batch.x)) / 2
    torch.testing.assert_close(players.both(batch, "logits"), expected)
    heads = build(
        {"one": frozen(), "two": frozen(), "both": ensemble("one", "two")}, {"one": Headed(), "two": Headed()}, batch
    )
    with pytest.raises(BrokenRecipe, match="an ensemble cannot average 'head'"):
        heads.both(batch, "head")


def test_a_cached_player_answers_from_its_columns(batch: Batch) -> None:
    players = build(game(teacher=cached()), {"student": Net()}, batch)
    stored = torch.arange(12.0).view(4, 3)
    assert torch.equal(players.teacher(batch.with_(**{"teacher.logits": stored}), "logits"), stored)
    with pytest.raises(UnknownName, match=r"teacher\.logits"):
        players.teacher(batch, "logits")


def test_a_player_under_a_context_has_the_weights_of_the_moment_and_no_gradient(batch: Batch) -> None:
    net = Net()
    players = build(game(privileged=self_under("student", doubled(by=3.0))), {"student": net}, batch)
    players.turn("learn", ("student",))
    seen = players.privileged(batch, "logits")
    torch.testing.assert_close(seen, net.body(3 * batch.x))
    assert not seen.requires_grad
    with torch.no_grad():
        net.body[2].bias.add_(1.0)
    later = batch.with_(x=batch.x)
    torch.testing.assert_close(players.privileged(later, "logits"), seen + 1.0)


def test_builders_come_last_and_may_ask_everyone_else(batch: Batch) -> None:
    roles = {"projector": built(mirror(), sgd()), "student": learning(sgd()), "old": copy_of("student")}
    players = build(roles, {"student": Net(width=6)}, batch)
    assert players.projector.module.weight.shape == (2, 6)  # type: ignore[union-attr]


def test_copies_of_partly_frozen_players_learn_what_their_original_does(batch: Batch) -> None:
    net = Net()
    net.body[0].bias.requires_grad_(False)
    players = build(game(rival=copy_of("student", sgd())), {"student": copy.deepcopy(net)}, batch)
    players.turn("duel", ("student", "rival"))
    for name in ("student", "rival"):
        assert [p.requires_grad for p in players[name].params] == [True, False, True, True]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler, which is loaded
def test_a_copy_of_a_compiled_net_is_compiled_and_its_weights_keep_their_names() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].compile()
    copy_ = copied(Player("student", learning(sgd()), net))
    assert [m._compiled_call_impl is not None for m in copy_.modules()] == [False, True, False]
    assert list(copy_.state_dict()) == list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
