"""The index of recipes, read from syntax trees: no recipe is imported, and neither is torch.

A recipe is a file `limbeck/recipes/<family>/<key>.py` (`_` for `-`) with `recipe = Recipe(key="...", ...)`. Other
packages add theirs by an entry point of the group `limbeck.recipes` that names a module, or a package of modules.

The claim of a recipe is its own argument `claim`, where it has one: so a recipe of one's own is one file. Else it is
the `claim = Claim(...)` of `limbeck/claims/<key>.py`, if the recipe is the package's: so its file is the method alone.
Else there is none. Both at once are an error.

The status of a recipe comes from `limbeck/evidence/<key>.json`, and counts only while the fingerprint stored there is
that of the present sources (see `limbeck.sources`).
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import BadValue, BrokenRecipe, LimbeckError, unknown
from limbeck.sources import Sources, broken

if TYPE_CHECKING:
    from limbeck.recipe import Recipe

__all__ = ["evidence", "find", "fingerprint", "keys", "load", "records", "search"]

ROOT = Path(__file__).parent
GROUP = "limbeck.recipes"
ORDER = ("key", "title", "paper", "family", "kind", "learns", "teacher", "players", "stages", "product")
FIELDS = tuple(name for name in ORDER if name not in ("players", "stages"))
_PART = re.compile(r"^@part(?:\(.*\))?\n(?:@.*\n)*def (\w+)", re.M)
_CALL = re.compile(r"\b([A-Za-z_][\w.]*+)\(")
STATUSES = ("holds", "fails", "unproved")

Record = dict[str, Any]


@dataclass(frozen=True)
class _Place:
    """Where a recipe lies: its file, the module to import, its family if the folder says it, the file of its claim."""

    path: Path
    module: str
    family: str = ""
    claim: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of the recipe, and that of its claim where it is another."""
        return (self.path,) if self.claim is None else (self.path, self.claim)


def _shipped(root: Path) -> dict[str, _Place]:
    """The recipes of the package by key."""
    out: dict[str, _Place] = {}
    claims = {path.stem: path for path in root.glob("claims/*.py")}
    for path in sorted(root.glob("recipes/*/*.py")):
        if path.stem.startswith("_"):
            continue
        key, family = path.stem.replace("_", "-"), path.parent.name
        if key in out:
            raise broken(path, 1, f"the key {key!r} is taken by {out[key].path}")
        out[key] = _Place(path, f"limbeck.recipes.{family}.{path.stem}", family, claims.get(path.stem))
    return out


def _added() -> dict[str, _Place]:
    """The recipes that other packages add by entry points, by key."""
    out: dict[str, _Place] = {}
    for entry in metadata.entry_points(group=GROUP):
        path = _module_file(entry.module)
        if path is None:
            raise BrokenRecipe(f"entry point {entry.name!r} of group {GROUP}: no module {entry.module!r}")
        files = sorted(p for p in path.glob("*.py") if not p.stem.startswith("_")) if path.is_dir() else [path]
        for file in files:
            module = f"{entry.module}.{file.stem}" if path.is_dir() else entry.module
            out[file.stem.replace("_", "-")] = _Place(file, module)
    return out


def _module_file(module: str) -> Path | None:
    """The file or folder of a module, found without importing anything."""
    from importlib.util import find_spec

    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    path = origin.parent.joinpath(*rest) if origin.name == "__init__.py" else origin
    return next((p for p in (path, path.with_suffix(".py")) if p.exists()), None)


def _places(root: Path) -> dict[str, _Place]:
    """Every recipe by key.

    Raises:
        BrokenRecipe: two recipes of one key.
    """
    shipped, added = _shipped(root), _added()
    for key in shipped.keys() & added.keys():
        raise broken(added[key].path, 1, f"the key {key!r} is taken by {shipped[key].path}")
    return shipped | added


def _sources(root: Path) -> Sources:
    return Sources(root, {key: place.path for key, place in _shipped(root).items()})


def keys(root: Path = ROOT) -> list[str]:
    """List the keys of all recipes, without reading a file.

    Example:
        >>> "kd" in keys()
        True
    """
    return list(_places(root))


def _place(key: str, root: Path) -> _Place:
    """Find a recipe by key, or by path where it ends in `.py`.

    Raises:
        UnknownName: no recipe of that key.
        BadValue: no file at that path.
    """
    if key.endswith(".py"):
        if not Path(key).is_file():
            raise BadValue(f"no recipe file {key}")
        return _Place(Path(key), "")
    places = _places(root)
    if key not in places:
        raise unknown("recipe", key, places)
    return places[key]


def records(root: Path = ROOT) -> list[Record]:
    """Read the records of all recipes, sorted by family and key.

    Args:
        root: the folder that holds `recipes/`, `claims/` and `evidence/`.

    Returns:
        One dict a recipe: key, title, paper, family, kind, learns, teacher, product, parts, claim (its inequalities in
        words, or None), status.

    Raises:
        BrokenRecipe: a file that cannot be read as a recipe, with its path and line.

    Example:
        >>> sorted({r["status"] for r in records()} - {"holds", "fails", "unproved"})
        []
    """
    sources = _sources(root)
    found = [_record(key, place, sources) for key, place in _places(root).items()]
    return sorted(found, key=lambda r: (r["family"], r["key"]))


def find(key: str, root: Path = ROOT) -> Record:
    """Read the record of one recipe.

    Args:
        key: its key, or the path of a recipe file.
        root: the folder that holds `recipes/`, `claims/` and `evidence/`.

    Raises:
        UnknownName: no recipe of that key; the message says which is near.
        BadValue: no file at that path, or no recipe in it.
        BrokenRecipe: a file that cannot be read as a recipe, with its path and line.

    Example:
        >>> find("kd")["family"]
        'baselines'
    """
    place = _place(key, root)
    try:
        return _record(key, place, _sources(root))
    except BrokenRecipe as error:
        if place.module:
            raise
        raise BadValue(str(error)) from error


def search(found: Iterable[Record], query: str = "", *, family: str = "", teacher: str = "") -> list[Record]:
    """Keep the records in whose key, title or parts every word of a query occurs.

    Args:
        found: the records to search.
        query: words; case and the difference of `-`, `_` and space do not matter.
        family: keep only this family.
        teacher: keep only recipes that need this access to the teacher.

    Raises:
        UnknownName: a family or an access that no record has.

    Example:
        >>> rows = [{"key": "gkd", "title": "On-Policy Distillation", "parts": ["jsd"]}]
        >>> [r["key"] for r in search(rows, "on policy JSD")], search(rows, "diffusion")
        (['gkd'], [])
    """
    kept = list(found)
    for name, wanted in (("family", family), ("teacher", teacher)):
        if wanted:
            possible = {r[name] for r in kept}
            if wanted not in possible:
                raise unknown(name, wanted, possible)
            kept = [r for r in kept if r[name] == wanted]
    words = _loose(query).split()
    return [r for r in kept if all(w in _loose(" ".join((r["key"], r["title"], *r["parts"]))) for w in words)]


def _loose(text: str) -> str:
    return text.lower().replace("-", " ").replace("_", " ")


def load(key: str, root: Path = ROOT) -> Recipe:
    """Import a recipe with its claim: the one function here that may bring in torch.

    Args:
        key: its key, or the path of a recipe file.
        root: the folder that holds `recipes/` and `claims/`.

    Raises:
        UnknownName: no recipe of that key.
        BadValue: no file at that path, or no recipe in it.
        BrokenRecipe: the file, or that of its claim, cannot be read or imported.

    Example:
        >>> load("kd").product
        'student'
    """
    find(key, root)
    place = _place(key, root)
    recipe: Recipe = _imported(place.path, place.module).recipe
    if place.claim is None:
        return recipe
    return replace(recipe, claim=_imported(place.claim, f"limbeck.claims.{place.claim.stem}").claim)


def _imported(path: Path, module: str) -> Any:
    """Import a module, or the file where it belongs to no package.

    Raises:
        BrokenRecipe: it cannot be imported.
    """
    try:
        return importlib.import_module(module) if module else _imported_file(path)
    except LimbeckError:
        raise
    except Exception as error:
        raise BrokenRecipe(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error


def _imported_file(path: Path) -> Any:
    """Import a file that belongs to no package."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(f"limbeck_recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evidence(key: str, root: Path = ROOT) -> Record | None:
    """Read what the last recorded run of a claim gave; None if there was none.

    Raises:
        BrokenRecipe: the file is no JSON object with a status, a fingerprint and verdicts.
    """
    path = root / "evidence" / f"{key}.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["status"] not in STATUSES or not isinstance(found["fingerprint"], str):
            raise ValueError(f"status {found['status']!r}, fingerprint {found['fingerprint']!r}")
        if not all(isinstance(verdict["says"], str) for verdict in found["verdicts"]):
            raise ValueError("verdicts without words")
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenRecipe(f"{path}: not the evidence of a claim: {error}") from error
    return dict(found)


def fingerprint(key: str, root: Path = ROOT) -> str:
    """Hash all that the evidence of a claim depends on.

    That is the recipe, its claim, the bed and the other recipes that the claim names (but not their claims), the
    modules of parts, kernels, beds, probes, adapters and recipes that these import, and the versions (major and minor)
    of torch and transformers.

    Args:
        key: the key of a recipe.
        root: the folder that holds `recipes/` and `claims/`.

    Returns:
        `meaning-letters`, two hashes of 16 hexadecimal digits.

    Raises:
        UnknownName: no recipe of that key.
        BrokenRecipe: a source with a syntax error.
    """
    sources, files = _sources(root), _files(key, root)
    return f"{sources.meaning(files)}-{sources.letters(files)}"


def _files(key: str, root: Path = ROOT) -> list[Path]:
    """The files whose contents the fingerprint of a recipe covers."""
    return _sources(root).closure(*_place(key, root).files)


def _standing(key: str, place: _Place, sources: Sources) -> Record | None:
    """The evidence of a recipe of the package, unless the sources have changed since."""
    known = evidence(key, sources.root) if place.family else None
    if known is None:
        return None
    files = sources.closure(*place.files)
    meaning, _, letters = known["fingerprint"].partition("-")
    return known if letters == sources.letters(files) or meaning == sources.meaning(files) else None


def _record(key: str, place: _Place, sources: Sources) -> Record:
    """Read one recipe and its claim.

    Raises:
        BrokenRecipe: no recipe there, or one that breaks a rule of this module.
    """
    path = place.path
    tree = sources.tree(path)
    call = _call(tree, path, "recipe", "Recipe")
    given = _arguments(call, path)
    record: Record = {name: _constant(name, given, call, path) for name in FIELDS}
    if place.module and record["key"] != key:
        raise broken(path, call.lineno, f"the key {record['key']!r} does not belong in a file for {key!r}")
    if place.family and record["family"] != place.family:
        raise broken(path, call.lineno, f"family {record['family']!r} does not lie in the folder {place.family!r}")
    record["parts"] = sorted(set(_parts(tree, sources.text(path), sources.root)))
    known = _standing(key, place, sources)
    record["claim"] = _claim(given.get("claim"), tree, place, sources, known)
    record["status"] = known["status"] if known else "unproved"
    return record


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    """What a module assigns to a name at its top level."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and any(
            isinstance(t, ast.Name) and t.id == name for t in targets
        ):
            return node.value
    return None


def _call(tree: ast.Module, path: Path, name: str, of: str) -> ast.Call:
    """The call in `name = of(...)`."""
    value = _assigned(tree, name)
    if not isinstance(value, ast.Call) or _called(value) != of:
        raise broken(path, value.lineno if value else 1, f"no `{name} = {of}(...)`")
    return value


def _called(call: ast.Call) -> str:
    func = call.func
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


def _arguments(call: ast.Call, path: Path) -> dict[str, ast.expr]:
    """The arguments of `Recipe(...)` by name."""
    given = dict(zip(ORDER, call.args, strict=False))
    for keyword in call.keywords:
        if keyword.arg is None:
            raise broken(path, keyword.value.lineno, "Recipe(**...) cannot be read without importing it")
        given[keyword.arg] = keyword.value
    return given


def _constant(name: str, given: Mapping[str, ast.expr], call: ast.Call, path: Path) -> str:
    """A field that must be a string in so many words."""
    node = given.get(name)
    if node is None and name == "product":
        return "student"
    if node is None:
        raise broken(path, call.lineno, f"the recipe has no {name!r}")
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        raise broken(path, node.lineno, f"{name!r} must be a string constant, got `{ast.unparse(node)}`")
    return node.value


def _parts(tree: ast.Module, text: str, root: Path) -> Iterator[str]:
    """The names of the parts that a file calls: those of `limbeck.parts` and its own.

    Calls are found in the text: walking the trees of all recipes would take longer than all else here.
    """
    called = set(_CALL.findall(text))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("limbeck.parts"):
            for alias in node.names:
                name = alias.asname or alias.name
                if name in called and alias.name in _defined(root, node.module or ""):
                    yield alias.name
                if node.module == "limbeck.parts":
                    yield from (c.removeprefix(f"{name}.") for c in called if c.startswith(f"{name}."))
        elif isinstance(node, ast.FunctionDef) and any(_decorates(d) for d in node.decorator_list):
            yield node.name


@cache
def _defined(root: Path, module: str) -> frozenset[str]:
    """The names of the parts in a module of `limbeck.parts`: functions that only help are none."""
    for place in (root, ROOT):  # a checkout of recipes alone has its parts in the package
        file = place.joinpath(*module.split(".")[1:]).with_suffix(".py")
        if file.is_file():
            return frozenset(_PART.findall(file.read_text(encoding="utf-8")))
    return frozenset()


def _decorates(decorator: ast.expr) -> bool:
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(name, ast.Name) and name.id == "part"


def _claim(
    given: ast.expr | None, tree: ast.Module, place: _Place, sources: Sources, known: Record | None
) -> str | None:
    """The inequalities of a recipe's claim in words; None without a claim.

    Evidence that stands has them in words already: reading the files of claims would take a third of the time.

    Raises:
        BrokenRecipe: the recipe has a claim of its own and a file of one, or that file has none.
    """
    node = _followed(given, tree)
    own = None if isinstance(node, ast.Constant) and node.value is None else node
    if place.claim is None:
        return None if own is None else _words(own, tree)
    if own is not None:
        raise broken(place.path, own.lineno, f"a claim here, and another in {place.claim}")
    if known is not None:
        return "; ".join(verdict["says"] for verdict in known["verdicts"])
    tree = sources.tree(place.claim)
    return _words(_call(tree, place.claim, "claim", "Claim"), tree)


def _words(node: ast.expr, tree: ast.Module) -> str:
    """The inequalities that a claim says."""
    says = next((k.value for k in getattr(node, "keywords", ()) if k.arg == "says"), None)
    says = _followed(says, tree) or node
    parts = says.elts if isinstance(says, ast.Tuple | ast.List) else [says]
    return "; ".join(map(_inequality, parts))


def _followed(node: ast.expr | None, tree: ast.Module) -> ast.expr | None:
    """What a name stands for at the top level of the file."""
    return (_assigned(tree, node.id) or node) if isinstance(node, ast.Name) else node


def _inequality(node: ast.expr) -> str:
    """One inequality as `limbeck.recipe` prints it, or its source where it is no plain call."""
    try:
        assert isinstance(node, ast.Call)
        args = [ast.literal_eval(a) for a in node.args]
        args += [ast.literal_eval(k.value) for k in node.keywords]
        if _called(node) == "within":
            return "{}[{}] <= {:g} on every seed".format(*args)
        relation, gains, loses = {"more": (">=", "+", "-"), "less": ("<=", "-", "+")}[_called(node)]
        probe, arm, than, by = args
        return f"{probe}[{arm}] {relation} {probe}[{than}] {gains if by >= 0 else loses} {abs(by):g}"
    except (AssertionError, ValueError, KeyError, IndexError, TypeError):
        return ast.unparse(node)
