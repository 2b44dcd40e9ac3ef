"""Recipes in words and in JSON: what `limbeck show` prints, `run.json` keeps and a run directory is compared by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from limbeck.cite import bibtex
from limbeck.override import flatten
from limbeck.part import Expr, Named, Part, Spec
from limbeck.recipe import Recipe, walk

__all__ = ["describe", "markdown", "page", "plain", "short", "specs"]

LONG = 8  # values of a list that are written out
ABOUT = ("key", "title", "paper", "family", "kind", "learns", "teacher", "product")


def plain(value: Any) -> Any:
    """Turn anything that a recipe holds into what JSON has.

    A part becomes {"part": name, **hyper-parameters}, named terms {"terms": ...}, other data {"is": class, **fields}.

    Example:
        >>> from limbeck.parts.schedule import linear
        >>> plain({"weight": linear(end=0.5), "top": (1, 2), "clip": float("inf")})
        {'weight': {'part': 'linear', 'start': 0.0, 'end': 0.5}, 'top': [1, 2], 'clip': 'inf'}
    """
    if isinstance(value, Part):
        return {"part": value.spec.name, **{name: plain(v) for name, v in value.hyper}}
    if isinstance(value, Named):
        return {"terms": {name: plain(term) for name, term in value.named}}
    if isinstance(value, Mapping):
        return {str(name): plain(v) for name, v in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Sequence | set | frozenset):
        return [plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if dataclasses.is_dataclass(value):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__.lower(), **fields}
    return repr(value)


def describe(recipe: Recipe) -> dict[str, Any]:
    """Describe what a resolved recipe will run; equal descriptions run the same.

    Returns:
        JSON: what the recipe is about, its players, its stages and its sampler. Variants, claim and deviations are not
        in it: they do not change what runs.

    Example:
        >>> from limbeck.index import load
        >>> describe(load("kd"))["players"]["teacher"]["optimizer"] is None
        True
    """
    about = {name: getattr(recipe, name) for name in ABOUT}
    drawn = {} if recipe.sampler is None else {"sampler": plain(recipe.sampler)}
    return {**about, "players": plain(recipe.players), "stages": plain(recipe.stages), **drawn}


def page(recipe: Recipe, record: Mapping[str, Any], evidence: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Gather all that `limbeck show` tells of a recipe.

    Args:
        recipe: the recipe.
        record: its record in the index, for the status.
        evidence: what its claim gave, if it was ever recorded.

    Returns:
        JSON: the description, the settings by path, the parts with their maths, variants, deviations, the claim, its
        status and evidence, and the citation.
    """
    return {
        **describe(recipe),
        "settings": {path: plain(v) for path, v in flatten(recipe).items() if not isinstance(v, Expr) or _schedule(v)},
        "parts": [_part(spec) for spec in specs(recipe)],
        "variants": plain(recipe.variants),
        "deviates": list(recipe.deviates),
        "claim": None if recipe.claim is None else _claim(recipe),
        "status": record["status"],
        "evidence": None if evidence is None else dict(evidence),
        "citation": bibtex(record),
    }


def _schedule(value: Any) -> bool:
    return isinstance(value, Part) and value.spec.takes == ("at",)


def specs(recipe: Recipe) -> list[Spec]:
    """List the parts of a recipe, each once, in the order in which they are met."""
    found: dict[str, Spec] = {}
    for expr in _expressions(recipe):
        for leaf in expr.leaves():
            found.setdefault(leaf.spec.name, leaf.spec)
    return list(found.values())


def _expressions(recipe: Recipe) -> Iterator[Expr]:
    """Every expression that stages and players hold."""
    holders = [*walk(recipe.stages), *recipe.players.values()]
    holders += [phase for stage in walk(recipe.stages) for phase in getattr(stage, "phases", ())]
    for holder in holders:
        for field in dataclasses.fields(holder):
            yield from _within(getattr(holder, field.name))
    yield from _within(recipe.sampler)


def _within(value: Any) -> Iterator[Expr]:
    """The expressions in a value: itself, those it maps names to, and those that a sweep goes through."""
    if isinstance(value, Expr):
        yield value
    elif isinstance(value, Mapping | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _within(inner)


def _part(spec: Spec) -> dict[str, Any]:
    """One part: where it is, what it says of itself, its formula and its schema."""
    schema = {name: {"default": plain(p.default), "type": str(p.annotation)} for name, p in spec.hyper.items()}
    return {"name": spec.name, "module": spec.fn.__module__, "about": spec.about, "maths": spec.maths, "hyper": schema}


def _claim(recipe: Recipe) -> dict[str, Any]:
    """The claim with its inequalities in words."""
    assert recipe.claim is not None
    return {**plain(recipe.claim), "says": [str(said) for said in recipe.claim.says]}


def markdown(shown: Mapping[str, Any]) -> str:
    """Write a page (see `page`) in Markdown: for a terminal, a file or the documentation."""
    about = [f"{name}: {shown[name]}" for name in ABOUT[2:] if shown[name]]
    blocks = [f"# {shown['key']}: {shown['title']}", "; ".join(about) + "."]
    blocks += ["## Players", *_bullets({name: _role(role) for name, role in shown["players"].items()})]
    blocks += ["## Stages", *(line for stage in shown["stages"] for line in _stage(stage))]
    if "sampler" in shown:
        blocks += ["## Sampler", f"The {shown['product']} is sampled by {short(shown['sampler'])}."]
    blocks += ["## Parts", *(block for part in shown["parts"] for block in _part_text(part))]
    blocks += ["## Settings", _code(f"{path} = {short(value)}" for path, value in shown["settings"].items())]
    if shown["variants"]:
        blocks += ["## Variants", *_bullets({name: short(sets) for name, sets in shown["variants"].items()})]
    if shown["deviates"]:
        blocks += ["## Deviates", *(f"- {said}" for said in shown["deviates"])]
    blocks += ["## Claim", *_claim_text(shown)]
    return "\n\n".join([*_joined(blocks), "## Citation", _code(shown["citation"].splitlines())]) + "\n"


def _joined(blocks: list[str]) -> list[str]:
    """Blocks, with the items of a list drawn together."""
    out: list[str] = []
    for block in blocks:
        if out and block.lstrip().startswith("- ") and out[-1].lstrip().startswith("- "):
            out[-1] += f"\n{block}"
        else:
            out.append(block)
    return out


def _bullets(items: Mapping[str, str]) -> list[str]:
    return [f"- **{name}**: {text}" for name, text in items.items()]


def _code(lines: Any) -> str:
    return "\n".join(["```", *lines, "```"])


def short(value: Any) -> str:
    """A value of a description on one line, parts as calls."""
    if isinstance(value, Mapping) and "part" in value:
        return f"{value['part']}({', '.join(f'{k}={short(v)}' for k, v in value.items() if k != 'part')})"
    if isinstance(value, Mapping) and "terms" in value:
        return " + ".join(f"{name}: {short(term)}" for name, term in value["terms"].items())
    if isinstance(value, Mapping) and "is" in value:
        return _expression(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} = {short(v)}" for k, v in value.items())
    if isinstance(value, list) and len(value) > LONG:
        return f"[{', '.join(map(short, value[:2]))}, ..., {', '.join(map(short, value[-2:]))}: {len(value)}]"
    if isinstance(value, list):
        return f"[{', '.join(map(short, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _expression(value: Mapping[str, Any]) -> str:
    """A composed expression as it is written in a recipe."""
    kind = value["is"]
    if kind in ("sum", "pipe"):
        return (" + " if kind == "sum" else " >> ").join(map(short, value["parts"]))
    if kind == "scaled":
        return f"{short(value['weight'])} * {short(value['expr'])}"
    if kind == "renamed":
        return f"{short(value['expr'])} on {', '.join(f'{role}={player}' for role, player in value['names'])}"
    return ", ".join(f"{k} = {short(v)}" for k, v in value.items() if k != "is" and v not in (None, "", [], {}))


def _role(role: Mapping[str, Any]) -> str:
    """Where a player comes from and whether it learns."""
    of = ", ".join(role["of"])
    if role["builder"]:
        origin = f"built by {short(role['builder'])}"
    elif role["context"]:
        origin = f"{of} under {short(role['context'])}"
    elif role["every"]:
        origin = f"follows {of}, decay {role['decay']:g}, every {role['every']} steps"
    elif of:
        origin = f"mean of {of}" if len(role["of"]) > 1 else f"copy of {of}"
    else:
        origin = "answers stored by an earlier stage" if role["stored"] else "given"
    return f"{origin}; " + (f"learns by {short(role['optimizer'])}" if role["optimizer"] else "does not learn")


def _stage(stage: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A stage, and what it holds one level deeper."""
    apart = ("is", "name", "phases", "stages")
    inner = {k: v for k, v in stage.items() if k not in apart and v not in (None, "", [], {})}
    yield f"{indent}- **{stage['name']}** ({stage['is']}): " + "; ".join(f"{k} {short(v)}" for k, v in inner.items())
    for phase in stage.get("phases", ()):
        fields = {k: v for k, v in phase.items() if k not in ("is", "name") and v is not None}
        fields["learns"] = ", ".join(phase["learns"])
        yield f"{indent}  - **{phase['name']}**: " + "; ".join(f"{k} {short(v)}" for k, v in fields.items())
    for below in stage.get("stages", ()):
        yield from _stage(below, indent + "  ")


def _part_text(part: Mapping[str, Any]) -> Iterator[str]:
    yield f"**{part['name']}** ({part['module']}): {part['about']}"
    if part["maths"]:
        yield _code(part["maths"].splitlines())


def _claim_text(shown: Mapping[str, Any]) -> Iterator[str]:
    """What is claimed, on which bed, and what came of it."""
    claim = shown["claim"]
    if claim is None:
        yield "Nothing is claimed."
        return
    control = f"control: {claim['control']}" if claim["control"] else f"no control: {claim['no_control']}"
    yield f"On the bed {claim['bed']}, {claim['seeds']} seeds, {control}. Status: **{shown['status']}**."
    yield from (f"- {said}" for said in claim["says"])
    for verdict in (shown["evidence"] or {}).get("verdicts", ()):
        yield f"- evidence: {verdict['says']}: effect {verdict['effect']:g}, bound {verdict['bound']:g}"
