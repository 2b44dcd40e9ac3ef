"""The sections of a report: from what a run says to blocks of text, tables and drawings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from limbeck.describe import short as in_words
from limbeck.evaluate import WHO, Cost, Examination, Interval, Quality, Regression, Slice
from limbeck.report import plots
from limbeck.report.blocks import Block, Bullets, Case, Cell, Code, Figures, Folded, Para, Plot, Section, Table, Tiles
from limbeck.report.doubts import FEW, doubts
from limbeck.report.reading import Record
from limbeck.report.words import (
    MODELS,
    bytes_of,
    count,
    ends_of,
    faster,
    interval,
    number,
    p_value,
    seconds,
    times,
    versus,
)

__all__ = ["quality_tables", "sections", "summary"]

PICTURE = "samples-{}.png"  # beside the report
TEXT = 1200
PANELS = 24
OPEN = 5
COMPOSED = ("sum", "pipe", "scaled", "renamed")


def sections(record: Record) -> list[Section]:
    """All sections of one run, in the order in which somebody who decides needs them.

    Args:
        record: the run, complete or not; what is not there has no section but a line among what is not known.
    """
    exam = record.exam or Examination()
    slices = exam.by_slice()
    every = [
        Section("In short", [*short(exam, slices), *_alarms(record.run)]),
        Section("Quality", quality_tables(exam)),
        Section("Samples", _samples(record)),
        Section("What is not known", [Bullets([("open", text) for text in doubts(record)])]),
        Section("Speed, memory and size", _costs(exam.costs)),
        Section("Quality by slice", _slices(exam, slices)),
        Section("Calibration", _calibration(exam)),
        Section("Worst regressions", _regressions(exam)),
        Section("Learning curves", _curves(record)),
        Section("Recipe", list(_recipe(record.run)), folded=True),
        Section("Data, versions and machine", list(_provenance(record.run)), folded=True),
        Section("To reproduce it", _command(record.run)),
    ]
    return [section for section in every if section.blocks]


# -- quality ----------------------------------------------------------------------------------------------------------


def short(exam: Examination, slices: Sequence[Slice]) -> list[Block]:
    if not exam.qualities:
        return []
    said = [versus(q, who, v) for q in exam.qualities for who, v in q.versus.items()]
    return [Tiles(_tiles(exam)), Bullets([*said, *_moved(exam), *_worst_slice(exam, slices)])]


def _alarms(run: Mapping[str, Any]) -> list[Block]:
    """What was wrong while the student learned."""
    said = [("bad", f"While it learned, {line}.") for line in run.get("alarms") or ()]
    return [Bullets(said)] if said else []


def _tiles(exam: Examination) -> list[tuple[str, str, str]]:
    """The few figures that matter most."""
    q, costs, ratio = exam.qualities[0], exam.costs, faster(exam.costs)
    tiles = []
    if q.kept is not None:
        kept = Interval(*(None if v is None else 100 * v for v in q.kept))  # type: ignore[arg-type]
        ends = "no interval" if kept.low is None else f"95% interval {kept.low:.1f} to {kept.high:.1f}"
        tiles.append((f"{kept.value:.1f}%", f"of the teacher's {q.name}", ends))
    elif "after" in q.values:
        tiles.append((number(q.values["after"].value), q.name, "student after"))
    if {"teacher", "after"} <= costs.keys():
        sizes = [costs[who].parameters for who in ("after", "teacher")]
        share = f"{100 * sizes[0] / max(1, sizes[1]):.0f}%"
        tiles.append((share, "of the parameters", f"{count(sizes[0])} of {count(sizes[1])}"))
    if ratio is not None:
        rates = [costs[who].rows / costs[who].speed.median for who in ("after", "teacher")]  # type: ignore[union-attr]
        tiles.append((f"{times(ratio)}x", "the speed", f"{count(rates[0])} rows/s against {count(rates[1])}"))
    if "after" in costs and costs["after"].disk is not None:
        other = costs.get("teacher")
        against = f"teacher {bytes_of(other.disk)}" if other and other.disk is not None else "teacher not measured"
        tiles.append((bytes_of(costs["after"].disk), "on disk", against))
    return tiles


def _moved(exam: Examination) -> Iterator[tuple[str, str]]:
    """How many rows got better and worse than before."""
    if {"before", "after"} <= exam.scores.keys():
        sign = 1 if exam.higher_is_better else -1
        gaps = [sign * (a - b) for a, b in zip(exam.scores["after"], exam.scores["before"], strict=True)]
        up, down = sum(g > 0 for g in gaps), sum(g < 0 for g in gaps)
        yield "", f"Of {len(gaps)} rows, {up} are better than before distillation and {down} are worse."


def _worst_slice(exam: Examination, slices: Sequence[Slice]) -> Iterator[tuple[str, str]]:
    """The slice that lost most, if one has certainly lost."""
    sign = 1 if exam.higher_is_better else -1
    for s in sorted(slices, key=lambda s: sign * s.difference.value):
        ends = (s.difference.low, s.difference.high)
        if s.n >= FEW and None not in ends and max(sign * e for e in ends) < 0:  # type: ignore[operator]
            told = interval(s.difference, max(map(abs, s.means.values())), sign=True)
            other = MODELS[s.against]
            yield (
                "bad",
                f"Weakest slice: where {s.column} is {s.value}, {exam.score} differs by {told} from the {other}.",
            )
            return


def quality_tables(exam: Examination) -> list[Block]:
    """One table per measure: every model with its interval, and the student compared with it."""
    return [_quality(q) for q in exam.qualities]


def _quality(q: Quality) -> Table:
    ends = [e for v in q.values.values() for e in v if e is not None]
    scale, low, high = max(map(abs, ends)), min(ends), max(ends)
    rows: list[list[str | Cell]] = []
    for who in WHO:
        if who in q.values:
            v, against = q.values[who], q.versus.get(who)
            picture = Cell("", plots.whisker(v, low, high, who))
            difference = interval(against.difference, scale, sign=True) if against else "-"
            p = p_value(against.p, against.floor) if against else "-"
            rows.append([MODELS[who], number(v.value, scale), ends_of(v, scale), picture, difference, p])
    better = "higher is better" if q.higher_is_better else "lower is better"
    measured = f"{q.n} rows" if q.n else "one figure per model, without rows"
    head = ["Model", q.name, "95% interval", "", "student after minus this (95% interval)", "p"]
    return Table(f"{q.name}: {better}; {measured}", head, rows)


def _slices(exam: Examination, found: Sequence[Slice]) -> list[Block]:
    if not found:
        return []
    ends = [abs(e) for s in found for e in s.difference if e is not None]
    span, scale = max(*ends, 1e-9), max(abs(m) for s in found for m in s.means.values())
    shown = [who for who in WHO if who in found[0].means]
    against = MODELS[found[0].against]
    head = ["Slice", "rows", *(MODELS[who] for who in shown), "", f"after minus {against} (95% interval)"]
    blocks: list[Block] = []
    for column in exam.slices:
        rows: list[list[str | Cell]] = [
            [
                s.value,
                f"{s.n}{' (few)' if s.n < FEW else ''}",
                *(number(s.means[who], scale) for who in shown),
                Cell("", plots.whisker(s.difference, -span, span, "after", mark=0)),
                interval(s.difference, scale, sign=True),
            ]
            for s in found
            if s.column == column
        ]
        blocks.append(Table(f"mean {exam.score} by {column}", head, rows))
    note = "Worst first. The intervals hold for each slice alone: of twenty, one misses its truth by chance."
    return [Para(note), *blocks]


def _calibration(exam: Examination) -> list[Block]:
    found = exam.calibrations()
    if not found:
        return []
    drawings = []
    for who, c in found.items():
        mean = sum(conf * n for conf, _, n in c.bins) - sum(right * n for _, right, n in c.bins)
        tends = "too sure" if mean > 0 else "not sure enough"
        says = f"ECE {c.ece:.3f}, Brier score {c.brier:.3f}; on the whole {tends}"
        drawings.append(Plot(MODELS[who], plots.reliability(MODELS[who], says, c, who), says))
    note = (
        "Share of right answers (upwards) against confidence. On the dashed line, confidence can be taken at its word."
    )
    return [Para(note), Figures(drawings)]


def _samples(record: Record) -> list[Block]:
    """Pictures that each model drew from the same noise, where they were kept."""
    found = [(who, record.path / PICTURE.format(who)) for who in WHO]
    shown = [(who, path) for who, path in found if path.exists()]
    says = "drawn for the first held-out rows, from the noise of each row"
    blocks: list[Block] = []
    for who, path in shown:
        drawing = plots.picture(MODELS[who], says, path.read_bytes())
        blocks.append(Figures([Plot(MODELS[who], drawing, says)], path.name))
    return blocks


# -- rows -------------------------------------------------------------------------------------------------------------


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]} ... ({len(text) - TEXT} more characters)"


def _regressions(exam: Examination) -> list[Block]:
    found = exam.regressions()
    if not found or not exam.inputs:
        return []
    lost = sum(r.fall > 0 for r in exam.regressions(len(exam.inputs)))
    note = (
        f"{lost} of {len(exam.inputs)} rows score worse than the teacher or than before; these {len(found)} fell most."
    )
    cases = [_case(exam, r) for r in found]
    rest: list[Block] = [Folded(f"{len(cases) - OPEN} more", cases[OPEN:])] if len(cases) > OPEN else []
    return [Para(note), *cases[:OPEN], *rest]


def _case(exam: Examination, found: Regression) -> Case:
    row, right = found.row, all(set(s) <= {0, 1} for s in exam.scores.values()) and exam.higher_is_better
    asked = [("Input", _cut(exam.inputs[row]))]
    if exam.expected:
        asked.append(("Expected", _cut(exam.expected[row])))
    answers = []
    for who in WHO:
        if who in exam.scores or who in exam.outputs:
            told = [MODELS[who]]
            if who in exam.scores:
                score = exam.scores[who][row]
                told.append(("right" if score else "wrong") if right else f"{exam.score} {number(score)}")
            if who in exam.confidences:
                told.append(f"confidence {exam.confidences[who][row]:.2f}")
            text = _cut(exam.outputs[who][row]) if who in exam.outputs else "(answer not kept)"
            answers.append((who, ", ".join(told), text))
    others = " and the ".join(MODELS[who] for who in found.versus)
    fell = f"wrong where the {others} {'were' if len(found.versus) > 1 else 'was'} right"
    return Case(f"Row {row}: {fell if right else f'{number(found.fall)} worse than the {others}'}", asked, answers)


# -- the run ----------------------------------------------------------------------------------------------------------


def _costs(costs: Mapping[str, Cost]) -> list[Block]:
    shown = [who for who in WHO if who in costs]
    if not shown:
        return []
    how = "".join(f" ({kind})" for kind in sorted({c.memory_kind for c in costs.values()} - {""}))
    lines: list[list[str | Cell]] = [
        ["parameters", *(count(costs[w].parameters) for w in shown)],
        ["weights in memory", *(bytes_of(costs[w].weight_bytes) for w in shown)],
        ["size on disk", *(_known(costs[w].disk, bytes_of) for w in shown)],
        [f"memory while it runs{how}", *(_known(costs[w].memory, bytes_of) for w in shown)],
        ["time for one call (median)", *(_time(costs[w], "median") for w in shown)],
        ["its quartiles", *(f"{_time(costs[w], 'low')} to {_time(costs[w], 'high')}" for w in shown)],
        ["rows of that call", *(str(costs[w].rows) for w in shown)],
        ["rows a second", *(_rate(costs[w]) for w in shown)],
    ]
    note = f"Measured on this machine, over {_calls(costs)}; other hardware gives other ratios."
    return [Table(note, ["Measure", *(MODELS[w] for w in shown)], lines)]


def _calls(costs: Mapping[str, Cost]) -> str:
    repeats = sorted({c.speed.repeats for c in costs.values() if c.speed is not None})
    return f"{' or '.join(map(str, repeats)) or 'no'} calls"


def _known(value: Any, shown: Any) -> str:
    return "not measured" if value is None else str(shown(value))


def _time(cost: Cost, which: str) -> str:
    return "not measured" if cost.speed is None else seconds(getattr(cost.speed, which))


def _rate(cost: Cost) -> str:
    return "not measured" if cost.speed is None or not cost.speed.median else count(cost.rows / cost.speed.median)


def _order(name: str) -> tuple[int, str]:
    """Evaluations first, losses next, gradients last."""
    return (0 if name.startswith("eval/") else 2 if "grad_norm" in name else 1), name


def _curves(record: Record) -> list[Block]:
    curves = {key: c for key, c in record.curves.items() if len(c) > 1}
    single = [[stage, name, number(c[0][1])] for (stage, name), c in record.curves.items() if len(c) == 1]
    keys = sorted(curves, key=lambda k: _order(k[1])[0])
    drawings = []
    for stage, name in keys[:PANELS]:
        c = curves[stage, name]
        title = f"{stage}: {name}"
        says = f"from {number(c[0][1])} at step {c[0][0]} to {number(c[-1][1])} at step {c[-1][0]}"
        drawings.append(Plot(title, plots.curve(title, says, c), says))
    blocks: list[Block] = [Figures(drawings)] if drawings else []
    if single:
        blocks.append(Table("Figures taken once", ["Stage", "Figure", "Value"], single, wide=frozenset({0, 1})))
    if len(keys) > PANELS:
        blocks.append(Para(f"{len(keys) - PANELS} more curves are in metrics.jsonl."))
    return blocks


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted paths to values; what is composed of parts is one value, and what is empty is left out."""
    expression = isinstance(value, Mapping) and ({"part", "terms"} & value.keys() or value.get("is") in COMPOSED)
    if isinstance(value, Mapping) and not expression:
        for key, inner in value.items():
            if key != "is" and inner not in (None, "", [], {}):
                yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{inner.get('name', i) if isinstance(inner, Mapping) else i}")
    else:
        yield path, in_words(value)


def _pairs(caption: str, of: Any) -> Table:
    return Table(caption, ["Name", "Value"], [[k or "-", v] for k, v in _flat(of)], wide=frozenset({0, 1}))


def _recipe(run: Mapping[str, Any]) -> Iterator[Block]:
    if resolved := run.get("resolved"):
        yield _pairs("The recipe as it was run, every default filled in", resolved)
    if parts := run.get("parts"):
        said = [f"{name}\n    " + (maths or "(no formula)").replace("\n", "\n    ") for name, maths in parts.items()]
        yield Para("Its parts, and what each computes:")
        yield Code("\n\n".join(said))


def moment(stamp: Any) -> datetime | None:
    """A time as runs write it: seconds since 1970, or ISO 8601."""
    try:
        return datetime.fromtimestamp(stamp, UTC) if isinstance(stamp, (int, float)) else datetime.fromisoformat(stamp)
    except (TypeError, ValueError, OverflowError):
        return None


def took(run: Mapping[str, Any]) -> str:
    """How long the run took, where it says so."""
    start, end = moment(run.get("started")), moment(run.get("finished"))
    try:
        return seconds((end - start).total_seconds()) if start and end else "not known"
    except TypeError:  # one of the two has a time zone and the other has none
        return "not known"


def _provenance(run: Mapping[str, Any]) -> Iterator[Block]:
    when = {name: run[name] for name in ("status", "seed", "started", "finished") if run.get(name) is not None}
    shown = {k: str(moment(v) or v) if k in ("started", "finished") else v for k, v in when.items()}
    yield _pairs("The run", {**shown, "took": took(run)})
    captions = {
        "players": "Players: where they came from",
        "asked": "Servers: what they answered, in answers and tokens",
        "data": "Data: a fingerprint of the contents of every split",
        "licenses": "Licences, as stated",
        "versions": "Versions",
        "host": "Machine",
    }
    for key, caption in captions.items():
        if run.get(key):
            yield _pairs(caption, run[key])


def _command(run: Mapping[str, Any]) -> list[Block]:
    argv = [str(a) for a in run.get("argv") or []]
    if not argv:
        return []
    if argv[0].endswith(("/limbeck", "limbeck/__main__.py")):
        argv[0] = "limbeck"
    elif argv[0].endswith("limbeck/demo.py"):
        argv[:1] = ["python", "-m", "limbeck.demo"]
    elif argv[0].endswith(".py"):
        argv.insert(0, "python")
    seed = f", seed {run['seed']}" if run.get("seed") is not None else ""
    return [Para(f"With the versions and data above, on the same machine{seed}:"), Code(shlex.join(argv), "sh")]


def summary(records: Sequence[Record]) -> Table:
    """One line per run, to compare several."""
    rows = []
    for record in records:
        exam = record.exam or Examination()
        q = exam.qualities[0] if exam.qualities else Quality("not known", True, {})
        cells = [number(q.values[w].value) if w in q.values else "not known" for w in WHO]
        kept = "not known" if q.kept is None else f"{100 * q.kept.value:.1f}%"
        both = [exam.costs[w].parameters for w in ("after", "teacher") if w in exam.costs]
        share = f"{100 * both[0] / max(1, both[1]):.0f}%" if len(both) == 2 else "not known"
        ratio = faster(exam.costs)
        speed = "not known" if ratio is None else f"{times(ratio)}x"
        rows.append([f"{record.path.name} ({record.recipe})", record.status, q.name, *cells, kept, share, speed])
    head = ["Run", "status", "measure", "teacher", "before", "after", "kept", "parameters", "speed"]
    return Table("All runs", head, rows, wide=frozenset({0, 1, 2}))
