"""The pages of the documentation that are written from the code: recipes, parts, beds and the Python interface.

`python -m tools.pages` writes docs/recipes/<key>.md for every recipe, docs/recipes/index.md, docs/parts.md,
docs/beds.md and docs/api.md, none of which is kept under version control, and the counts of recipes in README.md.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import limbeck
import limbeck.parts
import limbeck.probes
from limbeck import api, errors
from limbeck.beds import beds, load_bed
from limbeck.describe import markdown, page
from limbeck.index import STATUSES, evidence, load, records
from limbeck.part import Spec

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COUNTS = re.compile(r"(?<=<!-- counts -->\n).*?(?=<!-- /counts -->)", re.S)
SECTION = re.compile(r"^(Args|Returns|Raises|Example|Source):[ ]*(.*)$")
KINDS = {
    ("players", "batch", "weight"): "token loss",
    ("players", "batch", "state"): "step", ("at",): "schedule", ("params",): "optimiser", ("players", "data"): "probe",
    ("logp", "uniform"): "target",
}  # fmt: skip
Page = tuple[str, str]  # path below docs, text


def main() -> int:
    """Write every page; returns the exit status."""
    for path, text in itertools.chain(recipe_pages(), [recipe_index(), part_page(), bed_page(), api_page()]):
        target = DOCS / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.rstrip() + "\n", encoding="utf-8")
    stale = {p.stem for p in (DOCS / "recipes").glob("*.md")} - {r["key"] for r in records()} - {"index"}
    for key in stale:
        (DOCS / "recipes" / f"{key}.md").unlink()
    readme = ROOT / "README.md"
    readme.write_text(COUNTS.sub(lambda _: counts() + "\n", readme.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


# -- recipes ----------------------------------------------------------------------------------------------------------


def recipe_pages() -> Iterator[Page]:
    """One page a recipe: what `limbeck show` prints, how to run it, and both sides of its claim seed by seed."""
    for record in records():
        key, known = record["key"], evidence(record["key"])
        recipe = load(key)
        text = deeper(markdown(page(recipe, record, known)))
        blocks = [text.rstrip(), "## Run it", *_commands(key, recipe.claim.bed if recipe.claim else "")]
        if known is not None:
            blocks += ["## Evidence", *_evidence(known, record["status"])]
        yield f"recipes/{key}.md", "\n\n".join(blocks)


def _commands(key: str, bed: str) -> Iterator[str]:
    lines = [f"limbeck show {key}"]
    if bed:
        lines += [f"limbeck verify {key}", f"limbeck distill {key} --data {bed} --out runs/{key}"]
    yield "```sh\n" + "\n".join(lines) + "\n```"


def _evidence(known: Mapping[str, Any], status: str) -> Iterator[str]:
    """Both sides of every inequality for every seed, of the claim and of its control."""
    if status == "unproved":
        yield "The code has changed since these figures were made, so they prove nothing about it."
    yield f"Bed `{known['bed']}`, {known['seeds']} paired seeds, {known['seconds']:g} s for the verdict."
    for title in ("verdicts", "control"):
        for verdict in known.get(title) or ():
            said = "" if title == "verdicts" else "With the control in place: "
            holds = "holds" if verdict["holds"] else "does not hold"
            yield f"{said}`{verdict['says']}` {holds}: effect {verdict['effect']:.4g}, bound {verdict['bound']:.4g}."
            sides = enumerate(zip(verdict["left"], verdict["right"], strict=True))
            yield table(("seed", "left", "right"), ((i, f"{a:.6g}", f"{b:.6g}") for i, (a, b) in sides))


def recipe_index() -> Page:
    """The table of recipes by family and status, and the table of all."""
    found = records()
    listed = ((f"[{r['key']}]({r['key']}.md)", r["status"], r["family"], r["teacher"], cell(r["title"])) for r in found)
    blocks = [
        "# Recipes",
        "*Holds* and *fails* are what the recorded run of a recipe's claim gave; *unproved* means that there is no "
        "such run, that the code has changed since, or that nothing is claimed (baselines). "
        "[How verdicts are reached](../claims.md).",
        counts(),
        table(("recipe", "status", "family", "teacher", "paper"), listed),
    ]
    return "recipes/index.md", "\n\n".join(blocks)


def counts() -> str:
    """The table of how many recipes each family has, by status."""
    found = records()
    families = sorted({r["family"] for r in found})
    counted = Counter((r["family"], r["status"]) for r in found)
    rows = [(f, *(counted[f, s] for s in STATUSES), sum(r["family"] == f for r in found)) for f in families]
    rows.append(("all", *(sum(r["status"] == s for r in found) for s in STATUSES), len(found)))
    return table(("family", *STATUSES, "recipes"), rows)


# -- parts and beds ---------------------------------------------------------------------------------------------------


def part_page() -> Page:
    """Every part and probe of the package with its maths and its hyper-parameters."""
    blocks = ["# Parts and probes", "A part is one idea; see [concepts](concepts.md). Defaults are the published ones."]
    for package in (limbeck.parts, limbeck.probes):
        for module in _modules(package):
            own = [s for s in vars(module).values() if isinstance(s, Spec) and s.fn.__module__ == module.__name__]
            if own:
                blocks += [f"## {module.__name__}", _first(module), *(b for spec in own for b in _part(spec))]
    return "parts.md", "\n\n".join(blocks)


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        yield importlib.import_module(found.name)


def _part(spec: Spec) -> Iterator[str]:
    shown = ", ".join(f"{name}={p.default!r}" for name, p in spec.hyper.items())
    yield f"### {spec.name}"
    yield f"`{spec.name}({shown})` - {_kind(spec)}" + (
        "; more is better." if spec.higher else "; couples the rows of a batch." if spec.coupled else "."
    )
    yield docstring(inspect.getdoc(spec.fn) or "", maths=spec.maths)


def _kind(spec: Spec) -> str:
    """The kind of a part in words, by what it takes and, for what takes players and a batch, by what it returns."""
    returns = str(spec.fn.__annotations__.get("return", ""))
    return KINDS.get(spec.takes) or {"Tensor": "loss, weight or other tensor", "Batch": "batch part"}.get(
        returns, "builder"
    )


def bed_page() -> Page:
    """Every bed with its players and probes."""
    worlds = [load_bed(key) for key in beds()]
    rows = ((f"`{b.key}`", cell(b.about), ", ".join(b.players), ", ".join(b.probes)) for b in worlds)
    about = (
        "A bed is a small world whose truth is known. Recipes and claims name it by its key, and so does `--data`: "
        "it brings players, data and probes."
    )
    return "beds.md", "\n\n".join(["# Beds", about, table(("bed", "what is known", "players", "probes"), rows)])


# -- the Python interface ---------------------------------------------------------------------------------------------


def api_page() -> Page:
    """The public names, the functions of `limbeck.api` first, and the errors."""
    functions = [getattr(api, name) for name in api.__all__]
    others = [_public(name) for name in limbeck.__all__ if name not in api.__all__]
    about = (
        "The functions that the commands call, and the words recipes are written in. Import them from the module in "
        "the heading."
    )
    blocks = ["# Python interface", about]
    for thing in (*functions, *others):
        blocks += [f"## {thing.__module__}.{thing.__name__}", *_documented(thing)]
    blocks += ["## Errors", "```text\n" + (inspect.getdoc(errors) or "").split("\n\n", 1)[1] + "\n```"]
    return "api.md", "\n\n".join(blocks)


def _public(name: str) -> Any:
    """A public name of the package; asked of its home, since `limbeck.part` is a module as well."""
    home = next((module for module, names in limbeck._HOME.items() if name in names), "limbeck.recipe")
    return getattr(importlib.import_module(home), name)


def _documented(thing: Any) -> Iterator[str]:
    """Signature and docstring of a function or class, and its public methods."""
    yield f"```python\n{_signature(thing)}\n```"
    yield docstring(inspect.getdoc(thing) or "")
    if inspect.isclass(thing):
        for name, member in vars(thing).items():
            member = getattr(member, "fget", None) or member
            if inspect.isfunction(member) and not name.startswith("_"):
                yield f"**`{thing.__name__}.{name}`**"
                yield docstring(inspect.getdoc(member) or "")


def _signature(thing: Any) -> str:
    kind = "class" if inspect.isclass(thing) else "def"
    signature = inspect.signature(thing)
    given = [_plain(str(p)) for p in signature.parameters.values()]
    keyword_only = [p.kind is p.KEYWORD_ONLY for p in signature.parameters.values()]
    if any(keyword_only):
        given.insert(keyword_only.index(True), "*")
    back = (
        ""
        if kind == "class" or signature.return_annotation is signature.empty
        else f" -> {signature.return_annotation}"
    )
    head = f"{kind} {thing.__name__}("
    flat = f"{head}{', '.join(given)}){back}"
    return flat if len(flat) <= 100 else head + "".join(f"\n    {p}," for p in given) + f"\n){back}"


def _plain(parameter: str) -> str:
    """A parameter without quotes around its annotation and without addresses of objects."""
    return re.sub(r"<factory>|<[^>]* object at [^>]*>", "...", re.sub(r"^(\W*\w+): '([^']*)'", r"\1: \2", parameter))


# -- Markdown ---------------------------------------------------------------------------------------------------------


def docstring(text: str, maths: str = "") -> str:
    """Turn a docstring of the house's form into Markdown.

    Example:
        >>> print(docstring("Add.\\n\\na + b\\n\\nArgs:\\n    a: one.\\n    b: another\\n        one.", maths="a + b"))
        Add.
        <BLANKLINE>
            a + b
        <BLANKLINE>
        - `a`: one.
        - `b`: another one.
    """
    title, groups = "", [("", list[str]())]
    for line in text.splitlines():
        if found := SECTION.match(line):
            title = found[1]
            groups.append((title, [found[2]] if found[2] else []))
        else:
            groups[-1][1].append(line)
    return "\n\n".join(filter(None, (_section(title, lines, maths) for title, lines in groups)))


def _section(title: str, lines: list[str], maths: str) -> str:
    body = inspect.cleandoc("\n".join(lines) if not title else "\n" + "\n".join(lines))
    if not title:
        paragraphs = (_indented(p) if p == maths or p.startswith((" ", "-")) else p for p in body.split("\n\n"))
        return "\n\n".join(paragraphs)
    if title == "Example":
        return f"```python\n{body.strip('`')}\n```"
    if title in ("Args", "Raises"):
        return ("" if title == "Args" else "Raises:\n\n") + "\n".join(_items(body))
    return f"{title}: {' '.join(body.split())}"


def _items(body: str) -> Iterator[str]:
    """The entries `name: text` as a list."""
    for entry in re.split(r"\n(?=\S)", body):
        name, _, told = " ".join(entry.split()).partition(": ")
        yield f"- `{name}`: {told}" if told else f"- {name}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _first(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0]


def deeper(text: str) -> str:
    """Indent nested lists by four, as Markdown for the web wants it; code is left alone."""
    pieces = text.split("```")
    pieces[::2] = [re.sub(r"(?m)^((?:  )+)(?=- )", lambda m: m[1] * 2, piece) for piece in pieces[::2]]
    return "```".join(pieces)


def cell(text: str) -> str:
    """Text that is safe in a cell of a table."""
    return text.replace("|", "\\|")


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown."""
    names = [*head]
    lines = [names, ["---"] * len(names), *([*row] for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
