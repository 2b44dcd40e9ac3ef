"""Roles and recipes: what is data, what is derived, and which contradictions are refused when they are written down."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue, BrokenRecipe, UnknownName
from limbeck.part import part
from limbeck.players import Players
from limbeck.recipe import (
    Arm,
    Claim,
    Inequality,
    Learn,
    Measure,
    Phase,
    Recipe,
    Repeat,
    Tune,
    less,
    more,
    walk,
    within,
)
from limbeck.roles import built, cached, copy_of, ema_of, ensemble, frozen, learning, self_under


@part
def adam(params: list[Tensor], *, lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=lr)


@part
def gap(players: Players, batch: Batch) -> Tensor:
    return players.student(batch, "logits").square().mean(1)


@part
def size(players: Players, data: Any) -> float:
    return float(len(data["test"]))


@part
def hint(players: Players, batch: Batch) -> Batch:
    return batch


# -- roles ------------------------------------------------------------------------------------------------------------


def test_only_learning_and_frozen_players_are_given() -> None:
    given = [learning(adam()), frozen()]
    derived = [copy_of("student"), ema_of("student"), self_under("student", hint()), ensemble("a", "b"), cached()]
    assert all(role.given for role in given)
    assert not any(role.given for role in [*derived, built(hint())])


def test_roles_are_frozen_data_that_compares_by_value() -> None:
    assert learning(adam(lr=1e-3)) == learning(adam()) != learning(adam(lr=2e-3))
    assert len({frozen(), frozen(), cached()}) == 2
    with pytest.raises(FrozenInstanceError):
        frozen().decay = 0.5  # type: ignore[misc]


def test_a_learner_needs_an_optimiser_and_not_a_loss() -> None:
    with pytest.raises(BadValue, match="needs an optimiser part such as adamw"):
        learning(gap())


@pytest.mark.parametrize(("decay", "every"), [(-0.1, 1), (1.1, 1), (0.9, 0), (0.9, -3)])
def test_averages_outside_their_range_are_refused(decay: float, every: int) -> None:
    with pytest.raises(BadValue, match=rf"got decay={decay}, every={every}"):
        ema_of("student", decay=decay, every=every)


@pytest.mark.parametrize("names", [(), ("teacher",)])
def test_an_ensemble_of_one_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(BadValue, match="two players or more"):
        ensemble(*names)


# -- recipes ----------------------------------------------------------------------------------------------------------


def recipe(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "key": "mine", "title": "Mine", "paper": "https://example.org", "family": "classic", "kind": "method",
        "learns": "student weights", "teacher": "none",
        "players": {"student": learning(adam()), "teacher": frozen()},
        "stages": (Learn("distill", (Phase("student", ("student",), gap()),), steps=1),),
    }  # fmt: skip
    return Recipe(**base | changes)


def test_two_things_of_one_name_are_refused() -> None:
    stage = recipe().stages[0]
    with pytest.raises(BrokenRecipe, match="recipe mine: the name 'distill' stands for two things"):
        recipe(stages=(stage, stage))
    with pytest.raises(BrokenRecipe, match="the name 'student' stands for two things"):
        recipe(stages=(replace(stage, name="student"),))


def test_a_player_made_from_nobody_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"unknown player 'studnet' in recipe mine, player 'ema'; did you mean"):
        recipe(players={"student": learning(adam()), "ema": ema_of("studnet")})


def test_a_phase_may_only_teach_players_that_can_learn() -> None:
    def stages(who: str) -> tuple[Learn, ...]:
        return (Learn("distill", (Phase("update", (who,), gap()),)),)

    with pytest.raises(UnknownName, match=r"unknown player 'critic' in recipe mine, phase distill\.update"):
        recipe(stages=stages("critic"))
    with pytest.raises(BrokenRecipe, match=r"phase distill\.update learns 'teacher', which has no optimiser"):
        recipe(stages=stages("teacher"))


def test_phases_inside_rounds_are_checked_too() -> None:
    inner = Learn("inner", (Phase("update", ("teacher",), gap()),))
    with pytest.raises(BrokenRecipe, match=r"phase inner\.update learns 'teacher'"):
        recipe(stages=(Repeat("rounds", (Repeat("more", (inner,)),)),))


def test_walk_goes_into_rounds_in_order() -> None:
    a, b, c = (Measure(name, {}) for name in "abc")
    inner = Repeat("inner", (b,))
    outer = Repeat("outer", (a, inner, c))
    assert [stage.name for stage in walk((outer, Measure("d", {})))] == ["outer", "a", "inner", "b", "c", "d"]


# -- claims -----------------------------------------------------------------------------------------------------------


def claim(**changes: Any) -> Claim:
    base: dict[str, Any] = {
        "bed": "digits", "arms": {"mine": Arm(), "other": Arm("alone"), "off": Arm(set={"a": 0})},
        "probes": {"accuracy": size()}, "says": (more("accuracy", "mine", "other", by=0.1),),
        "control": "off", "no_tune": "one size fits all",
    }  # fmt: skip
    return Claim(**base | changes)


def test_inequalities_say_which_side_wins_by_how_much() -> None:
    assert str(less("loss", "mine", "other", by=0.5)) == "loss[mine] <= loss[other] - 0.5"
    assert str(within("error", "mine", 1e-4)) == "error[mine] <= 0.0001 on every seed"
    signs = [said.sign for said in (more("p", "a", "b", by=1), less("p", "a", "b", by=1), within("p", "a", 1))]
    assert signs == [1, -1, 0]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"says": (more("accuracy", "mime", "other", by=0.1),)}, UnknownName, "unknown arm 'mime'.*did you mean"),
        ({"says": (more("accuracy", "mine", "others", by=0.1),)}, UnknownName, "unknown arm 'others'"),
        ({"says": (within("acuracy", "mine", 0.1),)}, UnknownName, "unknown probe 'acuracy'.*did you mean 'accuracy'"),
        ({"control": ""}, BrokenRecipe, "names a control arm, or says in no_control why"),
        ({"no_control": "nothing to switch off"}, BrokenRecipe, "names a control arm, or says in no_control why"),
        ({"control": "of"}, UnknownName, "unknown arm 'of' in control; did you mean 'off'"),
        ({"seeds": 2}, BrokenRecipe, "over at least 3 seeds"),
        ({"says": ()}, BrokenRecipe, "a claim says something"),
        ({"no_tune": ""}, BrokenRecipe, "tunes every arm that it compares"),
    ],
)
def test_a_claim_that_contradicts_itself_is_refused(changes: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        claim(**changes)


def test_identities_need_no_tuning_and_a_grid_is_enough_for_comparisons() -> None:
    assert claim(no_tune="", says=(within("accuracy", "mine", 0.1),)).tune is None
    grid = Tune("accuracy", {"mine": {"lr": (1, 2)}, "other": {"lr": (1, 2)}})
    assert claim(no_tune="", tune=grid).tune is grid
    assert isinstance(claim().says[0], Inequality)


def test_stored_answers_do_not_outlive_the_tokens_that_they_are_about() -> None:
    """A list of the teacher's tokens would fit other tokens of the same width, and be wrong without a word."""
    tokens = torch.zeros(2, 3, dtype=torch.long)
    batch = Batch({"tokens": tokens, "y": torch.arange(2), "teacher.ids": torch.zeros(2, 3, 4, dtype=torch.long)})
    assert "teacher.ids" in batch.with_(y=torch.ones(2)) and "teacher.ids" not in batch.with_(tokens=tokens + 1)
    made = batch.with_(tokens=tokens + 1, **{"teacher.ids": batch["teacher.ids"]})
    assert "teacher.ids" in made and "y" in made
