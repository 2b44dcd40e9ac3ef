"""Sources and their fingerprints: what the evidence of a claim depends on, hashed without importing anything.

A fingerprint has two halves, `meaning-letters`: a hash of the syntax trees without docstrings, comments and layout,
and a hash of the bytes. Equal letters settle the matter at the cost of reading; only where they differ are the trees
compared.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from limbeck.errors import BrokenRecipe

__all__ = ["Sources", "broken"]

WATCHED = ("parts", "kernels", "beds", "probes", "adapters", "recipes", "claims")
VERSIONED = ("torch", "transformers")

_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]+)|import[ \t]+([^\n#]+))", re.M)
_BED = re.compile(r"""bed\s*=\s*["']([\w-]+)["']""")
_OTHERS = (
    re.compile(r"""Arm\(\s*["']([\w-]+)["']"""),
    re.compile(r"""recipe\s*=\s*["']([\w-]+)["']"""),
    re.compile(r"""Sub\(\s*["'][\w-]+["'],\s*["']([\w-]+)["']"""),
)


def broken(path: Path, line: int, what: str) -> BrokenRecipe:
    """Build the error for a source that cannot be read, with its path and line."""
    return BrokenRecipe(f"{path}:{line}: {what}")


@dataclass
class Sources:
    """The sources below a root, each read once. Trees are not kept: they would only feed the garbage collector.

    Args:
        root: the folder of the package.
        recipes: the files of recipes by key, for claims and sweeps that name other recipes.
    """

    root: Path
    recipes: Mapping[str, Path]
    _contents: dict[Path, bytes] = field(default_factory=dict)
    _needs: dict[Path, frozenset[Path]] = field(default_factory=dict)
    _modules: dict[str, list[Path]] = field(default_factory=dict)
    _hashes: dict[tuple[str, Path], bytes] = field(default_factory=dict)

    def content(self, path: Path) -> bytes:
        """The contents of a file."""
        if path not in self._contents:
            self._contents[path] = path.read_bytes()
        return self._contents[path]

    def text(self, path: Path) -> str:
        """The contents of a file as text."""
        return self.content(path).decode(errors="replace")

    def tree(self, path: Path) -> ast.Module:
        """The syntax tree of a file.

        Raises:
            BrokenRecipe: a syntax error, or bytes that are no text, with path and line.
        """
        try:
            return ast.parse(self.content(path))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            raise broken(path, line, f"syntax error: {getattr(error, 'msg', error)}") from error

    def needs(self, path: Path) -> frozenset[Path]:
        """The files that one depends on directly: imports by text, and what a claim or a sweep names by key."""
        if path not in self._needs:
            text = self.text(path)
            names = {name for m in _IMPORT.finditer(text) for name in self._imported(path, *m.groups())}
            names |= {f"limbeck.beds.{bed}" for bed in _BED.findall(text)}
            others = {key for pattern in _OTHERS for key in pattern.findall(text)}
            found = {file for name in names for file in self._module(name)}
            self._needs[path] = frozenset(found | {self.recipes[key] for key in others & self.recipes.keys()})
        return self._needs[path]

    def _imported(self, path: Path, module: str | None, names: str | None, plain: str | None) -> Iterator[str]:
        """The dotted names that one import statement may mean."""
        if module is None:
            yield from (name.split()[0] for name in (plain or "").split(",") if name.strip())
            return
        module = self._absolute(path, module)
        yield module
        members = re.sub(r"#.*", "", names or "").strip("()").split(",")
        yield from (f"{module}.{member.split()[0]}" for member in members if member.strip())

    def _module(self, name: str) -> list[Path]:
        """The watched files of a module."""
        if name not in self._modules:
            parts = name.split(".")
            watched = parts[0] == "limbeck" and set(parts[1:2]) & set(WATCHED)
            base = self.root.joinpath(*parts[1:])
            places = (base.with_suffix(".py"), base / "__init__.py") if watched else ()
            self._modules[name] = [place for place in places if place.is_file()]
        return self._modules[name]

    def _absolute(self, path: Path, module: str) -> str:
        """A module with its leading dots resolved against the file that imports it."""
        level = len(module) - len(module.lstrip("."))
        if level == 0 or not path.is_relative_to(self.root):
            return module
        here = ("limbeck", *path.relative_to(self.root).parts)[:-level]
        return ".".join((*here, *filter(None, [module.lstrip(".")])))

    def closure(self, *paths: Path) -> list[Path]:
        """Files and all they depend on, sorted."""
        seen, waiting = set(), [*paths]
        while waiting:
            here = waiting.pop()
            if here not in seen:
                seen.add(here)
                waiting.extend(self.needs(here) - seen)
        return sorted(seen, key=Path.as_posix)

    def letters(self, files: list[Path]) -> str:
        """Hash files byte by byte, with the versions."""
        return self._digest("letters", files)

    def meaning(self, files: list[Path]) -> str:
        """Hash files without comments, docstrings and layout, with the versions."""
        return self._digest("meaning", files)

    def _digest(self, kind: str, files: list[Path]) -> str:
        """Hash the hashes of files, each computed once, under their names."""
        total = hashlib.blake2b(self.versions, digest_size=8)
        for path in files:
            if (kind, path) not in self._hashes:
                content = self.content(path) if kind == "letters" else repr(_bones(self.tree(path))).encode()
                name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name
                self._hashes[kind, path] = name.encode() + hashlib.blake2b(content, digest_size=8).digest()
            total.update(self._hashes[kind, path])
        return total.hexdigest()

    @cached_property
    def versions(self) -> bytes:
        """Major and minor versions of the packages on which figures depend."""
        return " ".join(f"{name} {_version(name)}" for name in VERSIONED).encode()


def _version(package: str) -> str:
    try:
        return ".".join(metadata.version(package).split(".")[:2])
    except metadata.PackageNotFoundError:
        return "none"


def _bones(node: Any) -> Any:
    """A syntax tree as nested tuples, without docstrings, places, and what differs between versions of Python."""
    if isinstance(node, list):
        return [_bones(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    kept: list[Any] = [type(node).__name__]
    for name in node._fields:
        value: Any = getattr(node, name, None)
        if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = value[1:] if ast.get_docstring(node, clean=False) is not None else value
        if value is not None and value != [] and name not in ("ctx", "kind", "type_comment", "type_ignores"):
            kept.append((name, _bones(value)))
    return tuple(kept)
