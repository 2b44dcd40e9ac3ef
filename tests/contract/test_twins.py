"""No recipe is another one with other numbers: that is a variant of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from torch import Tensor

from limbeck.batch import Batch
from limbeck.index import keys, load
from limbeck.override import flatten, override, variant
from limbeck.part import part
from limbeck.parts.schedule import cosine, linear
from limbeck.players import Players
from limbeck.recipe import Recipe
from limbeck.twins import shape, twins

KEYS = keys()


@part
def cross_entropy(players: Players, batch: Batch, *, smoothing: float = 0.0) -> Tensor:
    """A part of the name and the hyper-parameters of another."""
    raise NotImplementedError


def refuse(recipes: Iterable[Recipe]) -> None:
    found = "; ".join(" and ".join(group) for group in twins(recipes))
    assert not found, f"these differ in numbers only, so one should be a variant of the other: {found}"


def test_no_two_recipes_are_twins() -> None:
    refuse(map(load, KEYS))


def test_twins_are_found_and_named() -> None:
    other = replace(override(load("gkd"), {"beta": 0.1}), key="gkd-again", title="Another", paper="", claim=None)
    with pytest.raises(AssertionError, match="variant of the other: gkd and gkd-again\n"):
        refuse([*map(load, KEYS), other])


@pytest.mark.parametrize("key", KEYS)
def test_a_recipe_with_every_number_changed_is_its_twin(key: str) -> None:
    recipe = load(key)
    numbers = {path: value + 1 for path, value in flatten(recipe).items() if type(value) in (int, float)}
    changed = override(recipe, numbers)
    assert flatten(changed) != flatten(recipe) and shape(changed) == shape(recipe)


@pytest.mark.parametrize(
    ("key", "name", "same"),
    [
        ("dmd2", "four-step", True),  # tuples of other lengths
        ("gkd", "supervised", True),
        ("promptboosting", "six-classes", True),
        ("promptboosting", "single", False),  # another step
        ("vkd", "generative", False),  # another term
        ("flow-map-self-distill", "esd", False),
        ("stasc", "EIF", False),  # the player starts afresh in every round
    ],
)
def test_variants_in_numbers_are_twins_and_variants_in_parts_are_not(key: str, name: str, same: bool) -> None:
    recipe = load(key)
    assert (shape(variant(recipe, name)) == shape(recipe)) is same


def test_a_schedule_is_a_part_and_only_its_numbers_are_numbers() -> None:
    kd = load("kd")
    here, there = (override(kd, {"student.optimizer.lr": lr}) for lr in (cosine(start=1.0), linear(start=1.0)))
    assert shape(kd) == shape(here) != shape(there)


def test_names_that_only_label_do_not_part_twins() -> None:
    vkd = load("vkd")
    (stage,) = vkd.stages
    (phase,) = stage.phases
    loss = replace(phase.loss, named=tuple((name.upper(), term) for name, term in phase.loss.named))
    renamed = replace(stage, name="learn", phases=(replace(phase, name="all", loss=loss),))
    assert shape(replace(vkd, stages=(renamed,))) == shape(vkd)
    # but what is read and who learns are no labels
    for change in ({"data": "asked"}, {"phases": (replace(phase, learns=("student",)),)}):
        assert shape(replace(vkd, stages=(replace(stage, **change),))) != shape(vkd)


def test_a_weight_of_one_parts_no_twins() -> None:
    alone = load("alone")
    (stage,) = alone.stages
    (phase,) = stage.phases
    weighed = replace(stage, phases=(replace(phase, loss=1.0 * phase.loss),))
    assert shape(replace(alone, stages=(weighed,))) == shape(alone)


def test_parts_of_one_name_in_two_modules_are_two_parts() -> None:
    alone = load("alone")
    other = override(alone, {"distill.student.loss": cross_entropy()})
    assert repr(other.stages) == repr(alone.stages) and shape(other) != shape(alone)
