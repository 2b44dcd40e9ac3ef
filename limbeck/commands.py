"""The commands, thin: each calls one function; torch is imported inside commands only."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from limbeck.cli import INTERRUPTED, complain, explain, list_recipes, print_json, print_plain
from limbeck.errors import BadValue, UserError, unknown

__all__ = ["Commands", "app"]

LATER = ("plan", "recommend", "export")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Commands(TyperGroup):
    """The group of all commands: the one place where exceptions become messages and exit codes."""

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run a command line and exit with its code."""
        given = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main([a for a in given if a != "--debug"], **{**extra, "standalone_mode": False})
            if code == INTERRUPTED:
                complain("interrupted; a run goes on where it stopped with --resume")
        except Exception as error:
            if "--debug" in given:
                traceback.print_exc()
            code = explain(error)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False)
data_app = typer.Typer(help="Look at data before anything is trained on it.", rich_markup_mode=None)
app.add_typer(data_app, name="data")


def _keys(incomplete: str) -> list[str]:
    """The keys that begin so, for the shell."""
    from limbeck.index import keys

    return [key for key in keys() if key.startswith(incomplete)]


Key = Annotated[str, typer.Argument(help="The key of a recipe.", autocompletion=_keys)]
Keys = Annotated[list[str], typer.Argument(help="Keys of recipes, or files of your own.", autocompletion=_keys)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.callback(invoke_without_command=True)
def start(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Distil anything into something smaller, faster or safer, and prove that it worked."""
    if version:
        from importlib.metadata import version as installed

        print(f"limbeck {installed('limbeck')}")
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help())


@app.command()
def ls(
    query: Annotated[str, typer.Argument(help="Words that key, title or parts must have.")] = "",
    family: Annotated[str, typer.Option(help="Only this family.")] = "",
    teacher: Annotated[str, typer.Option(help="Only this access to the teacher, such as black-box.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the recipes."""
    list_recipes(query, family, teacher, as_json)


@app.command()
def show(key: Key, as_json: AsJson = False) -> None:
    """Show a recipe: players, stages, parts with their maths, settings, claim, evidence, citation."""
    from limbeck.describe import markdown, page
    from limbeck.index import evidence, find, load

    record = find(key)
    shown = page(load(key), record, evidence(record["key"]))
    if as_json:
        print_json(shown)
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(markdown(shown)))
    else:
        print(markdown(shown), end="")


@app.command()
def cite(key: Key) -> None:
    """Print the BibTeX entry of a recipe's paper."""
    from limbeck.cite import bibtex
    from limbeck.index import find

    print(bibtex(find(key)))


@app.command()
def new(
    key: Annotated[str, typer.Argument(help="The key of the new recipe, such as my-method.")],
    folder: Annotated[Path, typer.Option("--in", help="Where to write it.")] = Path(),
) -> None:
    """Write a new recipe with a claim, which runs as it is: one file, or two in a checkout of limbeck."""
    from limbeck.skeleton import write

    path, *claim = write(key, folder)
    print(f"wrote {' and '.join(map(str, (path, *claim)))}; it runs as it is:")
    print(f"limbeck distill {key if claim else f'--recipe {path}'} --data digits --out runs/{key}")
    print(f"limbeck verify {key if claim else path}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Report versions, devices, memory, disk, and what is missing."""
    from limbeck.doctor import examine

    found = examine()
    if as_json:
        print_json(found)
    else:
        print_plain(found)
    if found["missing"]:
        raise typer.Exit(1)


@data_app.command("check")
def data_check(
    data: Annotated[str, typer.Argument(help="What --data would be given.")],
    rows: Annotated[int, typer.Option(help="How many rows to show.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Show what will be trained on: columns, rows held out, the first rows decoded."""
    with _quiet(as_json):
        from limbeck.inspect_data import inspect_data

        found = inspect_data(data, rows)
    (print_json if as_json else print_plain)(found)


@data_app.command("add")
def data_add(folder: Annotated[str, typer.Argument(help="A folder; its name is the name of the data set.")]) -> None:
    """Copy a data set into the library, with hashes, so that it is found by name."""
    from limbeck.library import add

    print(add(folder))


def _from_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take a file's values as the defaults of the other options; the command line wins.

    Raises:
        BadValue: the file is no mapping.
        UnknownName: a key that is no option of this command.
    """
    if path is None or ctx.resilient_parsing:
        return path
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadValue(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise BadValue(f"{path} must map names of options to values, got {type(given).__name__}")
    known = {p.name for p in ctx.command.params} - {"config", "help"}
    named = {str(name).replace("-", "_"): value for name, value in given.items()}
    for name in named.keys() - known:
        raise unknown("option", name, {str(k) for k in known}, where=str(path))
    ctx.meta["limbeck.pairs"] = {k: dict(_flat(named.pop(k) or {}, path, k)) for k in ("set", "player") if k in named}
    ctx.default_map = {**(ctx.default_map or {}), **named}
    return path


def _flat(tree: Any, path: Path, name: str, above: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted path.

    Raises:
        BadValue: something that is no mapping.

    Example:
        >>> dict(_flat({"distill": {"steps": 5}, "lr": 0.1}, Path("run.yaml"), "set"))
        {'distill.steps': 5, 'lr': 0.1}
    """
    if not isinstance(tree, dict):
        raise BadValue(f"{path}: {name} must map paths to values, got {tree!r}")
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, path, name, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _pairs(ctx: typer.Context, option: str, given: Sequence[str]) -> dict[str, Any]:
    """The `name=value` pairs of an option, after those of the configuration file.

    Raises:
        BadValue: no `=` in one of them.
    """
    for pair in given:
        if "=" not in pair.strip("="):
            raise BadValue(f"--{option} wants name=value, got {pair!r}")
    from_file = ctx.meta.get("limbeck.pairs", {}).get(option, {})
    return {**from_file, **dict(pair.split("=", 1) for pair in given)}


def _seconds(text: str | None) -> float:
    """Read a duration: "90", "45s", "30m", "2h", "1h30m"; 0 for none.

    Raises:
        BadValue: it is none.

    Example:
        >>> _seconds("1h30m"), _seconds("45")
        (5400.0, 45.0)
    """
    if text is None:
        return 0.0
    pieces = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not pieces or "".join(n + unit for n, unit in pieces) != text:
        raise BadValue(f"--max-time wants a duration such as 45s, 30m or 1h30m, got {text!r}")
    return sum((float(n) * SECONDS[unit] for n, unit in pieces), 0.0)


@app.command()
def distill(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="The key of a recipe.", autocompletion=_keys)] = "",
    teacher: Annotated[
        str | None, typer.Option(help="Directory, hub name, URL#MODEL, module:factory or bed:KEY.")
    ] = None,
    student: Annotated[str | None, typer.Option(help="The same, or from-teacher:layers=6,width=0.5.")] = None,
    data: Annotated[str | None, typer.Option(help="A file or folder, a datasets name or a bed.")] = None,
    eval: Annotated[str | None, typer.Option(help="Data to evaluate on; by default a share held out.")] = None,
    out: Annotated[str | None, typer.Option(help="The run directory.")] = None,
    player: Annotated[list[str], typer.Option(help="NAME=SOURCE of a further player; repeatable.")] = [],  # noqa: B006
    set: Annotated[list[str], typer.Option(help="path=value of a setting (see show); repeatable.")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="The seed of everything random.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every learning stage.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows of a global batch.")] = None,
    micro_batch: Annotated[int, typer.Option(min=0, help="Rows at a time in a process; 0 for all.")] = 0,
    shard: Annotated[bool, typer.Option("--shard", help="Share out all weights over the processes (FSDP2).")] = False,
    precision: Annotated[Literal["no", "bf16"], typer.Option(help="Mixed precision.")] = "no",
    eval_every: Annotated[int, typer.Option(min=0, help="Steps between evaluations; 0 for none.")] = 0,
    patience: Annotated[int, typer.Option(min=0, help="Evaluations without progress to stop after.")] = 0,
    tracker: Annotated[list[str], typer.Option(help="Where to log as well; repeatable.")] = [],  # noqa: B006
    average: Annotated[float, typer.Option(help="Decay of a moving average of the weights to keep; 0 for none.")] = 0.0,
    max_time: Annotated[str | None, typer.Option(help="Stop after this long, such as 30m.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, train nothing.")] = False,
    recipe: Annotated[str | None, typer.Option(help="A recipe file of your own instead of a key.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True, callback=_from_config, exists=True, dir_okay=False, help="Options from a YAML file."
        ),
    ] = None,
) -> None:
    """Distil a teacher into a student by a recipe."""
    players, settings, limit = _pairs(ctx, "player", player), _pairs(ctx, "set", set), _seconds(max_time)
    from limbeck.index import find

    if bool(key) == bool(recipe):
        raise BadValue("give the key of a recipe (see limbeck ls), or a file of your own by --recipe")
    if out is None and not dry_run:
        raise BadValue("--out is missing: the directory of the run")
    found = find(recipe or key)
    if data is None:
        raise BadValue("--data is missing: a file, a folder, a name of datasets, or a bed")
    sys.path.append(str(Path.cwd()))  # for module:factory; at the end, where nothing installed is shadowed
    from limbeck import api

    run = api.distill(
        recipe or key, teacher=teacher, student=student, data=data, eval=eval, out=out or f"runs/{found['key']}",
        players=players, set=settings, seed=seed, steps=steps, batch_size=batch_size, micro_batch=micro_batch,
        shard=shard, precision=precision, eval_every=eval_every, patience=patience, trackers=tuple(tracker),
        average=average, max_time=limit, resume=resume, dry_run=dry_run,
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks
        print("nothing is wrong" if dry_run else run)


@app.command()
def verify(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Keys of recipes, or files of your own.", autocompletion=_keys)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every recipe that claims something.")] = False,
    seeds: Annotated[int | None, typer.Option(min=3, help="Paired seeds; by default the claim's.")] = None,
    seed_offset: Annotated[int, typer.Option(help="Added to every seed.")] = 0,
    retune: Annotated[bool, typer.Option("--retune", help="Choose the settings of every arm again.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Keep the evidence.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run claims afresh; the exit code is 0 if all of them hold."""
    if bool(keys) == all_:
        raise BadValue("give keys of recipes, or --all")
    from limbeck.index import records

    wanted = _known(keys or ()) or [r["key"] for r in records() if r["claim"]]
    if write and (own := [key for key in wanted if key.endswith(".py")]):
        raise BadValue(f"--write keeps evidence of the package's recipes; put {own[0]} into limbeck/recipes first")
    with _quiet(as_json):
        from limbeck import api

        found = api.verify(wanted, seeds=seeds, seed_offset=seed_offset, retune=retune, write=write)
    if as_json:
        print_json(found)
    else:
        for evidence in found:
            print("\n".join(_verdicts(evidence)))
    if any(evidence["status"] != "holds" for evidence in found):
        raise typer.Exit(1)


def _known(keys: Sequence[str]) -> list[str]:
    """The keys and recipe files, each of which is there and can be read.

    Raises:
        UnknownName: no recipe of that key.
        BadValue: no such file, or no recipe in it.
    """
    from limbeck.index import find

    return [key for key in keys if find(key)]


def _verdicts(evidence: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one claim: for every seed both sides of every inequality, and of the control."""
    yield f"{evidence['key']}: {evidence['status']}"
    for title in ("verdicts", "control"):
        for verdict in evidence.get(title) or ():
            label = "" if title == "verdicts" else "control: "
            figures = f"effect {verdict['effect']:.4g}, bound {verdict['bound']:.4g}"
            yield f"  {label}{verdict['says']}: {'holds' if verdict['holds'] else 'does not hold'} ({figures})"
            sides = zip(verdict["left"], verdict["right"], strict=True)
            first = evidence.get("seed_offset", 0)
            yield from (f"    seed {first + i}: {a:.6g} against {b:.6g}" for i, (a, b) in enumerate(sides))


@app.command()
def compare(
    keys: Annotated[
        list[str],
        typer.Argument(help="Keys of recipes, or files of your own; or run directories.", autocompletion=_keys),
    ],
    bed: Annotated[str, typer.Option(help="The bed to run recipes on.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each recipe.")] = 3,
    eval: Annotated[str | None, typer.Option(help="Pictures to compare runs with; by default their own.")] = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where it is drawn; by default compare-BED or compare-runs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run recipes side by side on a bed, or read finished runs against evaluations; and draw what came of it."""
    runs = [(Path(key) / "run.json").exists() for key in keys]
    if _all_or_none(runs, keys):
        if bed:
            raise BadValue("--bed is for recipes: the runs are compared on the rows that they were examined on")
        _compare_runs(keys, eval, out or Path("compare-runs"), as_json)
        return
    if not bed or eval:
        raise BadValue("recipes are compared on a bed: give --bed, and no --eval, which is for runs")
    wanted = _known(keys)
    with _quiet(as_json):
        from limbeck import api
        from limbeck.report.compared import headline, summary, write_comparison

        found = api.compare(wanted, bed=bed, seeds=seeds)
        if out or not as_json:
            page = write_comparison(found, out or Path(f"compare-{bed}"))
            print_plain(summary(found))
            print(headline(found), page, sep="\n")
    if as_json:
        print_json(found.figures)


def _all_or_none(runs: Sequence[bool], keys: Sequence[str]) -> bool:
    """Whether all are run directories.

    Raises:
        BadValue: some are and some are not.
    """
    if any(runs) and not all(runs):
        run, key = keys[runs.index(True)], keys[runs.index(False)]
        raise BadValue(f"compare recipes on a bed, or finished runs, not both: {run} is a run and {key} is none")
    return any(runs)


def _compare_runs(runs: Sequence[str], eval: str | None, out: Path, as_json: bool) -> None:
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        from limbeck.finished import compare_runs
        from limbeck.progress import LiveProgress
        from limbeck.report.finished import figures, said, write_finished

        found = compare_runs(runs, out, eval, LiveProgress())
        page = write_finished(found, out)
        if not as_json:
            print("\n".join(said(found)), page, sep="\n")
    if as_json:
        print_json(figures(found))


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run directories.")],
    out: Annotated[str | None, typer.Option(help="The HTML file; by default in the first run.")] = None,
) -> None:
    """Write the report of one run or several."""
    from limbeck import api

    print(api.report(runs, out))


@app.command("try")
def try_(run: Annotated[str, typer.Argument(help="A run directory.")]) -> None:
    """Ask teacher and student the same, side by side."""
    from limbeck.side_by_side import lines, side_by_side

    hint, ask = side_by_side(Path(run))
    if sys.stdin.isatty():
        print(f"type {hint}; an empty line or Ctrl-D ends", file=sys.stderr)
    for line in lines(ask, iter(lambda: sys.stdin.readline().rstrip("\n"), "")):
        print(line, flush=True)


def _later(name: str) -> Callable[[], None]:
    def refuse() -> None:
        raise UserError(f"`limbeck {name}` is not available in this version")

    return refuse


for _name in LATER:
    app.command(
        _name, hidden=True, add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(_later(_name))  # fmt: skip


@contextlib.contextmanager
def _quiet(as_json: bool) -> Iterator[None]:
    """Keep stdout free for JSON: what is printed inside goes to stderr; and nobody is told of small models loading."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # beds load theirs again and again, from the package
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield
