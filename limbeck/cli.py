"""The door of the command line: `ls` goes straight to the index, everything else to `limbeck.commands`.

Every error ends in one line on stderr and an exit code: 2 for the caller's mistakes, 1 for failures, 130 for an
interrupt. `--debug`, anywhere on the line, shows the traceback as well.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.errors import LimbeckError

__all__ = ["complain", "explain", "list_recipes", "main", "print_json", "print_plain"]

INTERRUPTED = 130


def main() -> None:
    """Run the command line of this process and exit with its code."""
    quick = None if any(name.startswith("_LIMBECK") for name in os.environ) else _plain_ls(sys.argv[1:])
    if quick is None:
        from limbeck.commands import app

        app(prog_name="limbeck")
        return
    try:
        list_recipes(**quick)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        sys.exit(explain(error))


def _plain_ls(args: Sequence[str]) -> dict[str, Any] | None:
    """The arguments of a plain `limbeck ls`; None where a real parser is needed, for help and for errors.

    Importing that parser takes longer than listing all recipes.

    Example:
        >>> _plain_ls(["ls", "one-step", "--teacher=black-box", "--json"])
        {'query': 'one-step', 'teacher': 'black-box', 'as_json': True}
        >>> _plain_ls(["ls", "--help"]) is None
        True
    """
    if list(args[:1]) != ["ls"]:
        return None
    found: dict[str, Any] = {}
    rest = [piece for arg in args[1:] for piece in (arg.split("=", 1) if arg.startswith("--") else [arg])]
    words = iter(rest)
    for word in words:
        if word == "--json":
            found["as_json"] = True
        elif word in ("--family", "--teacher"):
            found[word[2:]] = next(words, "-")
        else:
            found["query" if "query" not in found else "-"] = word
    plain = "-" not in found and not any(str(value).startswith("-") for value in found.values())
    return found if plain else None


def list_recipes(query: str = "", family: str = "", teacher: str = "", as_json: bool = False) -> None:
    """Print the records that match, as JSON, as a table, or as tab-separated lines where piped.

    Raises:
        UnknownName: no such family or access to the teacher.
        BrokenRecipe: a recipe file that cannot be read.
    """
    from limbeck.index import records, search

    found = search(records(), query, family=family, teacher=teacher)
    if as_json:
        print_json(found)
        return
    _table(found, ("key", "family", "teacher", "status", "title"))
    if sys.stdout.isatty():
        counts = ", ".join(f"{sum(r['status'] == s for r in found)} {s}" for s in ("holds", "fails", "unproved"))
        print(f"{len(found)} recipes: {counts}")


def explain(error: Exception) -> int:
    """Say on stderr what went wrong.

    Returns:
        The exit code: 2 for the caller's mistakes, 1 for everything else.
    """
    if isinstance(error, LimbeckError):
        complain(str(error))
        return error.exit_code
    if hasattr(error, "format_message"):  # a command line that cannot be parsed
        complain(error.format_message())
        return int(getattr(error, "exit_code", 2))
    complain(f"{type(error).__name__}: {' '.join(str(error).split())} (run with --debug for the traceback)")
    return 1


def complain(text: str) -> None:
    """Say one line on stderr."""
    print(f"limbeck: {text}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    print(json.dumps(value, indent=1, default=str))


def print_plain(value: Any, indent: str = "") -> None:
    """Print what a command returned: records as a table, mappings as lines, the rest as it is."""
    if isinstance(value, Mapping):
        for name, held in value.items():
            nested = isinstance(held, Mapping | list) and held
            print(f"{indent}{name}:" + ("" if nested else f" {'none' if held in (None, [], {}) else held}"))
            if nested:
                print_plain(held, indent + "  ")
    elif isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value) and not indent:
        _table(value, tuple(value[0]))
    elif isinstance(value, list):
        for item in value:
            print(f"{indent}{item}")
    elif value is not None:
        print(f"{indent}{value}")


def _table(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...]) -> None:
    """Print records: a table on a terminal, lines of tab-separated values where piped."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(str(row.get(c, "")) for c in columns))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row.get(c, "")) for c in columns))
    Console().print(table)
