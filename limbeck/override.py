"""Overrides: change what a dotted path names in a recipe, checked before anything is loaded.

A path begins with a stage or a player. Below a stage come its fields and phases (of a `Measure`, its probes; of a
`Repeat`, its stages); below a phase `loss`, `batch`, `learns`, `times`, `every`; below an expression the names of its
terms, of its parts and of their hyper-parameters; below a player `optimizer`, `builder`, `context`, `decay`, `every`:

    distill.steps        distill.student.loss.kd.beta        student.optimizer.lr

Where only one path ends so, its end will do: `kd.beta`. Where several do, `*.max_new_tokens` sets all of them. The path
`variant` names a published variant of the recipe.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from limbeck.errors import BadValue, BrokenRecipe, unknown
from limbeck.part import Expr, Named, Part, Pipe, Renamed, Scaled, Spec, Sum
from limbeck.recipe import Learn, Measure, Recipe, Repeat, Sub
from limbeck.roles import Role

__all__ = ["flatten", "override", "variant"]

HIDDEN = {"name", "of", "stored", "phases", "stages", "probes"}
MEMBERS = {Learn: "phases", Repeat: "stages", Measure: "probes", Sub: "probes", Recipe: "stages"}
SCHEDULES = "limbeck.parts.schedule"
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Change what dotted paths name, one after the other.

    Args:
        recipe: the recipe; it stays as it is.
        changes: path, an end that only one path has, or `*.` and an end that any have, to the new value. A string is
            read by the type of its target:
            "1e-4", "true", "(1, 2)", "cosine(1e-3, 0)", or another part of the module of the present one, as in
            "sgd(lr=0.1)".

    Returns:
        The recipe with the changes made and checked.

    Raises:
        UnknownName: no such path; the message says where it goes astray and what is near.
        BadValue: an end that several paths have, a value of the wrong type or sign, or a change that the recipe cannot
            bear, such as learning a player without optimiser.

    Example:
        >>> from limbeck.index import load
        >>> flatten(override(load("kd"), {"distill.steps": "1e3"}))["distill.steps"]
        1000
    """
    for path, value in changes.items():
        if path == "variant":
            recipe = variant(recipe, value)
        else:
            for names in _resolved(recipe, path):
                recipe = _changed(recipe, names, value)
    return recipe


def _changed(recipe: Recipe, names: tuple[str, ...], value: Any) -> Recipe:
    path = ".".join(names)
    try:
        changed: Recipe = _put(recipe, names, value, path)
    except BrokenRecipe as error:
        raise BadValue(f"{path} = {value!r}: {error}") from None
    return changed


def variant(recipe: Recipe, name: str) -> Recipe:
    """Return a published variant of a recipe.

    Raises:
        UnknownName: no variant of that name.
    """
    if name not in recipe.variants:
        raise unknown("variant", name, recipe.variants, where=f"recipe {recipe.key}")
    return override(recipe, recipe.variants[name])


def flatten(recipe: Recipe) -> dict[str, Any]:
    """List everything that can be overridden.

    Returns:
        Dotted path to present value, in the order of the recipe: numbers, strings, tuples, and the expressions of parts
        above them.

    Example:
        >>> from limbeck.index import load
        >>> "student.optimizer.lr" in flatten(load("kd"))
        True
    """
    return {".".join(names): value for names, value in _walk(recipe) if not _holder(value)}


def _holder(value: Any) -> bool:
    """Whether a value only holds others and cannot be replaced as a whole from text."""
    return dataclasses.is_dataclass(value) and not isinstance(value, Expr)


def _walk(node: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Everything below a node by path, parents first."""
    for name, value in _below(node).items():
        yield (*above, name), value
        yield from _walk(value, (*above, name))


def _below(node: Any) -> dict[str, Any]:
    """What a path can name directly below a node."""
    if isinstance(node, Expr):
        return node.children()
    if not dataclasses.is_dataclass(node):
        return {}
    if isinstance(node, Recipe):
        sampled = {} if node.sampler is None else {"sampler": node.sampler}
        return {**_members(node), **node.players, **sampled}
    fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.name not in HIDDEN}
    if isinstance(node, Role):  # what a role does not use cannot be set: it would change nothing
        fields = {name: value for name, value in fields.items() if value is not None and (node.every or value != 0)}
    return {**fields, **_members(node)}


def _members(node: Any) -> dict[str, Any]:
    """The phases of a stage, the stages of a repeat, the probes of a measure, by name."""
    held = getattr(node, MEMBERS.get(type(node), ""), ())
    return dict(held) if isinstance(held, Mapping) else {member.name: member for member in held}


def _resolved(recipe: Recipe, path: str) -> list[tuple[str, ...]]:
    """Find the one full path that is, or ends in, what was given; behind `*.` all that do.

    Raises:
        UnknownName: none.
        BadValue: several, where one was asked for.
    """
    end = path.removeprefix("*.")
    given = tuple(end.split("."))
    known = [names for names, _ in _walk(recipe)]
    hits = [given] if given in known else [names for names in known if names[-len(given) :] == given]
    if len(hits) == 1 or (hits and end != path):
        return [names for names in hits if not any(names[:n] in hits for n in range(len(names)))]
    if hits:
        full = ", ".join(".".join(names) for names in hits)
        raise BadValue(
            f"{path!r} could mean {full} in recipe {recipe.key}; write one of them in full, or '*.{path}' for all"
        )
    right = max((n for n in range(len(given)) if given[:n] in known), default=0)
    if right:
        below = [names[-1] for names in known if names[:-1] == given[:right]]
        raise unknown("setting", given[right], below, where=f"{'.'.join(given[:right])} of recipe {recipe.key}")
    ends = {".".join(names[-len(given) :]) for names in known if len(names) >= len(given)}
    if len(given) > 1:
        ends |= {".".join(names) for names in known}
    raise unknown("setting", path, ends, where=f"recipe {recipe.key}")


def _put(node: Any, names: tuple[str, ...], value: Any, path: str) -> Any:
    """Return a node with what the names lead to replaced."""
    head, *rest = names
    held = _below(node)[head]
    new = _put(held, tuple(rest), value, path) if rest else _fit(_annotation(node, head), held, value, path)
    if isinstance(node, Expr):
        return node.child(head, new)
    if isinstance(new, int | float) and new < 0:
        raise BadValue(f"{path} must be at least 0, got {new!r}")
    if isinstance(node, Recipe) and head in node.players:
        return dataclasses.replace(node, players={**node.players, head: new})
    if head in _members(node):
        members = {**_members(node), head: new}
        kept = members if isinstance(node, Measure | Sub) else tuple(members.values())
        return dataclasses.replace(node, **{MEMBERS[type(node)]: kept})
    return dataclasses.replace(node, **{head: new})


def _annotation(node: Any, name: str) -> Any:
    """The type that the schema gives to a child."""
    if isinstance(node, Scaled) and name == "weight":
        return float | Expr
    if isinstance(node, Scaled | Renamed):
        return _annotation(node.expr, name)
    if isinstance(node, Part):
        return node.spec.types[name]
    if isinstance(node, Sum | Pipe | Named):
        return Expr
    if name in _members(node) or isinstance(node, Recipe):
        return type(_below(node)[name])
    return typing.get_type_hints(type(node))[name]


def _fit(annotation: Any, held: Any, value: Any, path: str) -> Any:
    """Check a new value against the schema, read from text where it is one.

    Raises:
        BadValue: a value of the wrong type or sign, or a part of another kind.
    """
    kinds, of = _kinds(annotation), _elements(annotation)
    if _holder(held) and not isinstance(held, Role):
        kind = type(held).__name__.lower()
        raise BadValue(f"{path} is a {kind} and cannot be set; set one of {', '.join(_below(held))}")
    if isinstance(value, str) and str not in kinds:
        value = _read(kinds, held, value, path)
    value = _widened(kinds, value)
    if isinstance(value, list | tuple) and tuple in kinds:
        value = tuple(_widened(of, element) for element in value)
        if odd := [element for element in value if not _is(of, element)]:
            raise BadValue(f"{path} must be a tuple of {_words(of)}, got {odd[0]!r} in it")
    scheduled = isinstance(value, Part) and value.spec.takes == ("at",) and bool(kinds & {int, float})
    if not scheduled and not _is(kinds, value):
        raise BadValue(f"{path} must be {_words(kinds)}, got {value!r}")
    if isinstance(value, float) and math.isnan(value):
        raise BadValue(f"{path} must be a number, got nan")
    parts = isinstance(held, Part) and isinstance(value, Part) and not scheduled
    if parts and held.spec.takes[:2] != value.spec.takes[:2]:
        raise BadValue(f"{path} must be a part ({', '.join(held.spec.takes)}), got {value!r}")
    return value


def _widened(kinds: set[type], value: Any) -> Any:
    """An int as a float, where a float is wanted."""
    return float(value) if float in kinds and int not in kinds and type(value) is int else value


def _is(kinds: set[type], value: Any) -> bool:
    """Whether a value is of one of these classes; a bool is no number."""
    return isinstance(value, tuple(kinds)) and (not isinstance(value, bool) or bool in kinds or object in kinds)


def _elements(annotation: Any) -> set[type]:
    """The classes that the elements of a `tuple[x, ...]` may have."""
    members = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and members:
        return set().union(*(_kinds(a) for a in members if a is not ...))
    found = [_elements(a) for a in members if typing.get_origin(a) is tuple]
    return found[0] if found else {object}


def _kinds(annotation: Any) -> set[type]:
    """The classes that a value of this annotation may have."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return set().union(*(_kinds(a) for a in typing.get_args(annotation)))
    origin = typing.get_origin(annotation) or annotation
    return {origin if isinstance(origin, type) else object}


def _words(kinds: set[type]) -> str:
    names = {"Expr": "an expression of parts", "Part": "a part", "NoneType": "none", "Role": "a role"}
    return " or ".join(sorted(names.get(k.__name__, k.__name__) for k in kinds))


def _read(kinds: set[type], held: Any, text: str, path: str) -> Any:
    """Read a value of one of these classes from text; text that is none of them is returned as it is."""
    plain = text.strip()
    if re.fullmatch(r"\w+\(.*\)", plain, re.S) and kinds & {int, float, Expr, Part}:
        return _call(plain, held, path, number=bool(kinds & {int, float}))
    if type(None) in kinds and plain.lower() in ("none", "null"):
        return None
    if bool in kinds and plain.lower() in TRUTH:
        return TRUTH[plain.lower()]
    try:
        value = ast.literal_eval(plain)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return _listed(kinds, plain)
    if int in kinds and isinstance(value, float) and value.is_integer() and float not in kinds:
        return int(value)  # 1e3 steps
    return (value,) if tuple in kinds and not isinstance(value, tuple | list) else value


def _listed(kinds: set[type], text: str) -> Any:
    """Text that is no literal: infinity, words with commas between them, or itself."""
    if float in kinds and text.lstrip("+-").lower() in ("inf", "infinity"):
        return float(text)
    words = tuple(word.strip() for word in text.split(","))
    return words if tuple in kinds and all(re.fullmatch(r"[\w.-]+", word) for word in words) else text


def _call(text: str, held: Any, path: str, *, number: bool) -> Part:
    """Bind a part from text like `cosine(1e-3, end=0)`; arguments are constants.

    Raises:
        UnknownName: no part of that name where this setting looks for them, or no such hyper-parameter.
        BadValue: not a call with constant arguments.
    """
    specs = _specs(held, number)
    try:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        values = [ast.literal_eval(a) for a in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (AssertionError, ValueError, SyntaxError) as error:
        raise BadValue(f"{path}: write a part with constants, such as cosine(1e-3, end=0), got {text!r}") from error
    if call.func.id not in specs:
        raise unknown("schedule" if number else "part", call.func.id, specs, where=path)
    spec = specs[call.func.id]
    if len(values) > len(spec.hyper):
        raise BadValue(f"{path}: {spec.name} has {len(spec.hyper)} hyper-parameters, got {len(values)} values")
    return spec(**dict(zip(spec.hyper, values, strict=False)), **named)


def _specs(held: Any, number: bool) -> dict[str, Spec]:
    """The parts that may stand at a place: schedules for a number, else those of the module of the present part."""
    if number:
        space = vars(importlib.import_module(SCHEDULES))
    else:
        inner = held
        while isinstance(inner, Scaled | Renamed):
            inner = inner.expr
        space = inner.spec.fn.__globals__ if isinstance(inner, Part) else {}
    return {name: spec for name, spec in space.items() if isinstance(spec, Spec)}
