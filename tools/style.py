"""The style gate: measures of the package against bars, and where the worst offenders are.

Code lines are lines without blanks, comments and docstrings. Run `python -m tools.style`; exit 1 if a bar is broken.
"""

from __future__ import annotations

import ast
import io
import math
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MATHS = ("parts", "kernels", "probes", "beds")  # the folders whose docstrings have papers to cite
PACKAGE, TESTS = ROOT / "limbeck", ROOT / "tests"
RUN = 6  # equal lines in a row that count as repeated
QUIET = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
RAISES = re.compile(r"^\s*Raises:|\braises? \w*Error", re.M)
EXAMPLE = re.compile(r">>>|^\s*Examples?:|```", re.M)
CITES = re.compile(r"arXiv|https?://|doi|et al|^\s*Source:", re.I | re.M)
BARS = {
    "function median": ("<=", 9), "function p90": ("<=", 30), "function max": ("<=", 80), "file median": ("<=", 120),
    "file p90": ("<=", 300), "inheritance": ("<=", 2), "repeated": ("<=", 0.05), "documented": (">=", 0.98),
    "tell errors": (">=", 0.30), "show an example": (">=", 0.25), "cite (maths)": (">=", 0.30), "typed": (">=", 0.98),
    "tests to code": (">=", 0.80), "recipe p90": ("<=", 40), "recipe max": ("<=", 80), "claim p90": ("<=", 40),
    "claim max": ("<=", 80),
}  # fmt: skip


@dataclass(frozen=True)
class Def:
    """A function or class: where it is, code lines, docstring (None if it needs none) and typed slots."""

    where: str
    lines: int
    public: bool
    doc: str
    slots: int = 0
    typed: int = 0
    bases: tuple[str, ...] = ()
    name: str = ""


def code_lines(path: Path) -> dict[int, str]:
    """Line number to stripped text of the lines that hold code."""
    text = path.read_text(encoding="utf-8")
    kept: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in QUIET:
            kept.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            kept.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = text.splitlines()
    return {n: lines[n - 1].strip() for n in sorted(kept) if n <= len(lines)}


def definitions(path: Path) -> Iterator[Def]:
    """Every function, method and class of a file, but those inside functions."""
    code = code_lines(path)

    def visit(body: list[ast.stmt], owner: str, hidden: bool) -> Iterator[Def]:
        for node in body:
            if isinstance(node, ast.ClassDef):
                secret = hidden or node.name.startswith("_")
                bases = tuple(ast.unparse(b).split("[")[0].split(".")[-1] for b in node.bases)
                yield Def(
                    f"{path}:{node.lineno}", 0, not secret, ast.get_docstring(node) or "", bases=bases, name=node.name
                )
                yield from visit(node.body, node.name, secret)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield function(node, owner, hidden)
            elif isinstance(node, ast.If | ast.Try):
                yield from visit(node.body, owner, hidden)

    def function(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str, hidden: bool) -> Def:
        a = node.args
        given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        given = [p for p in given if not (owner and p.arg in ("self", "cls"))]
        dunder = node.name.startswith("__")
        typed = sum(p.annotation is not None for p in given) + (not dunder and node.returns is not None)
        size = sum(node.lineno <= n <= (node.end_lineno or 0) for n in code)
        overload = any(ast.unparse(d).endswith("overload") for d in node.decorator_list)
        public = not (hidden or node.name.startswith("_") or overload)
        return Def(
            f"{path}:{node.lineno}", size, public, ast.get_docstring(node) or "", len(given) + (not dunder), typed
        )

    yield from visit(ast.parse(path.read_text(encoding="utf-8")).body, "", False)


def chain(classes: dict[str, tuple[str, ...]], name: str) -> int:
    """The length of the longest chain of inheritance inside the package that ends in a class."""
    return 1 + max((chain(classes, b) for b in classes[name] if b in classes and b != name), default=0)


def repeated(files: list[list[str]]) -> float:
    """The share of code lines inside a run of equal lines that stands elsewhere too; imports do not count."""
    kept = [[x for x in f if not x.startswith(("import ", "from ", ")", "]", "}"))] for f in files]
    runs = [[tuple(f[i : i + RUN]) for i in range(len(f) - RUN + 1)] for f in kept]
    seen = Counter(run for file in runs for run in file)
    hit = sum(len({i + k for i, run in enumerate(file) if seen[run] > 1 for k in range(RUN)}) for file in runs)
    return hit / max(1, sum(map(len, kept)))


def at(values: list[int], q: float) -> int:
    """The q-quantile by nearest rank."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)] if values else 0


def measure() -> tuple[dict[str, float], list[Def], dict[str, int]]:
    """All measures, with the definitions and file lengths they come from."""
    files = sorted(PACKAGE.rglob("*.py"))
    code = {str(p.relative_to(ROOT)): list(code_lines(p).values()) for p in files}
    found = [d for p in files for d in definitions(p)]
    functions = [d for d in found if not d.name]
    docs = [d.doc for d in found if d.public]
    written = [d for d in docs if d]
    maths = [d.doc for d in found if d.public and d.doc and Path(d.where).relative_to(PACKAGE).parts[0] in MATHS]
    sizes = {name: len(lines) for name, lines in code.items() if lines}
    recipes, claims = (
        [n for name, n in sizes.items() if Path(name).match(f"limbeck/{of}")]
        for of in ("recipes/*/*.py", "claims/*.py")
    )
    classes = {d.name: d.bases for d in found if d.name}
    lengths = [d.lines for d in functions]

    def share(pattern: re.Pattern[str], of: list[str]) -> float:
        return sum(bool(pattern.search(d)) for d in of) / max(1, len(of))

    slots, bases = sum(d.slots for d in functions), classes
    figures = {
        "function median": at(lengths, 0.5), "function p90": at(lengths, 0.9), "function max": max(lengths),
        "file median": at(list(sizes.values()), 0.5), "file p90": at(list(sizes.values()), 0.9),
        "inheritance": max(chain(bases, name) for name in bases), "repeated": repeated(list(code.values())),
        "documented": len(written) / max(1, len(docs)), "tell errors": share(RAISES, written),
        "show an example": share(EXAMPLE, written), "cite (maths)": share(CITES, maths),
        "typed": sum(d.typed for d in functions) / max(1, slots),
        "tests to code": sum(len(code_lines(p)) for p in TESTS.rglob("*.py")) / max(1, sum(sizes.values())),
        "recipe p90": at(recipes, 0.9), "recipe max": max(recipes, default=0),
        "claim p90": at(claims, 0.9), "claim max": max(claims, default=0),
    }  # fmt: skip
    return figures, found, sizes


def main() -> int:
    """Print every measure beside its bar; returns the exit status."""
    figures, found, sizes = measure()
    broken = 0
    for name, (sign, bar) in BARS.items():
        holds = figures[name] <= bar if sign == "<=" else figures[name] >= bar
        broken += not holds
        print(f"{'ok    ' if holds else 'BROKEN'} {name:16} {figures[name]:8.3g} {sign} {bar:g}")
    if broken:
        print(
            "\nlongest functions:",
            *[f"{d.lines} {d.where}" for d in sorted(found, key=lambda d: -d.lines)[:5]],
            sep="\n  ",
        )
        print("longest files:", *[f"{n} {p}" for p, n in sorted(sizes.items(), key=lambda kv: -kv[1])[:5]], sep="\n  ")
        print("without docstring:", *[d.where for d in found if d.public and not d.doc][:5], sep="\n  ")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
