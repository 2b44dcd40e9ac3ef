"""Twins: recipes that differ in numbers only, of which one should be a variant of the other."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from limbeck.part import Named, Scaled, Spec
from limbeck.recipe import Recipe

__all__ = ["shape", "twins"]

NUMBERS = 0  # stands for a number and for any tuple of numbers


def shape(recipe: Recipe) -> dict[str, Any]:
    """Describe what a recipe runs with its numbers taken out, and the names that only label stages, phases and terms.

    Args:
        recipe: a resolved recipe.

    Returns:
        JSON: the players and the stages. A number and a tuple of numbers are the same, whatever their values; a number
        that weighs a loss is left out, for a loss without one weighs 1; parts are told apart by their modules too.

    Example:
        >>> from limbeck.index import load
        >>> from limbeck.override import override
        >>> kd = load("kd")
        >>> shape(override(kd, {"distill.steps": 7})) == shape(kd), shape(load("sft")) == shape(kd)
        (True, False)
    """
    return {"players": _shape(recipe.players), "stages": _shape(recipe.stages)}


def _shape(value: Any) -> Any:
    """What is left of a value."""
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, int | float):
        return NUMBERS
    if isinstance(value, Spec):
        return f"{value.fn.__module__}.{value.name}"
    if isinstance(value, Scaled) and isinstance(value.weight, int | float):
        return _shape(value.expr)
    if isinstance(value, Named):
        return {"terms": [_shape(term) for _, term in value.named]}
    if isinstance(value, Mapping):
        return {str(name): _shape(held) for name, held in value.items()}
    if isinstance(value, Sequence):
        kept = [_shape(held) for held in value]
        return NUMBERS if all(held is NUMBERS for held in kept) else kept
    if dataclasses.is_dataclass(value):
        fields = {f.name: _shape(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "name"}
        return {"is": type(value).__name__, **fields}
    return repr(value)


def twins(recipes: Iterable[Recipe]) -> list[list[str]]:
    """Find the recipes that are alike but for numbers and labels.

    Args:
        recipes: recipes as they stand, without their variants.

    Returns:
        The keys of every such group.

    Example:
        >>> from dataclasses import replace
        >>> from limbeck.index import load
        >>> kd = load("kd")
        >>> twins([kd, load("sft"), replace(kd, key="kd-again")])
        [['kd', 'kd-again']]
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for recipe in recipes:
        groups[json.dumps(shape(recipe), sort_keys=True)].append(recipe.key)
    return [keys for keys in groups.values() if len(keys) > 1]
