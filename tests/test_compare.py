"""Comparisons: what runs, what is refused before anything runs, and that pictures show their figures."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from scipy import stats
from typer.testing import CliRunner

import limbeck
from limbeck import comparison, skeleton
from limbeck.beds import load_bed
from limbeck.commands import app
from limbeck.comparison import Comparison, compare
from limbeck.errors import BadValue, NotFinite, RunError
from limbeck.evaluate import Interval
from limbeck.parts.solver import heun, ode_sample
from limbeck.players import Player, Players
from limbeck.probes.distribution import mmd, mode_recall, sliced_w2, sliced_wasserstein
from limbeck.report import plots, write_comparison
from limbeck.report.compared import headline, summary
from limbeck.roles import frozen
from limbeck.samplers import read_at
from limbeck.significance import student_t
from tests.test_report import Page

SVG = "{http://www.w3.org/2000/svg}"
FIGURES = {
    "one": {"sw2": [0.10, 0.12, 0.11, 0.13], "mmd": [0.031, 0.036, 0.029, 0.034], "recall": [1.0, 1.0, 1.0, 1.0]},
    "two": {"sw2": [0.15, 0.18, 0.16, 0.19], "mmd": [0.030, 0.040, 0.028, 0.035], "recall": [1.0, 1.0, 1.0, 1.0]},
    "three": {"sw2": [0.11, 0.10, 0.13, 0.14], "mmd": [0.050, 0.048, 0.060, 0.055], "recall": [1.0, 0.875, 1.0, 1.0]},
}


@pytest.fixture
def found() -> Comparison:
    """Three recipes on a bed of points."""
    truth = load_bed("mog8").data(0)["test"].take(torch.arange(4000))["x"]
    assert isinstance(truth, torch.Tensor)
    return Comparison(
        "mog8", FIGURES, {"sw2": sliced_w2(), "mmd": mmd(), "recall": mode_recall()}, "Eight Gaussians, known exactly.",
        {"one": "as tuned on this bed", "two": "as tuned on bed mog8w", "three": "as tuned on this bed"},
        {"one": [2.0, 2.5, 2.1, 2.2], "two": [75.0, 74.0, 76.0, 75.0], "three": [0.5, 0.5, 0.5, 0.5]},
        {"teacher": {"sw2": [0.05, 0.06, 0.05, 0.04], "recall": [1.0] * 4}, "before": {"sw2": [0.56] * 4}},
        {name: truth[i : i + 300] * (1 + i / 4000) for i, name in enumerate(FIGURES)}, truth,
        {"one": {1: [0.4] * 4, 4: [0.2] * 4}, "teacher": {1: [1.6] * 4, 4: [0.3] * 4, 15: [0.05] * 4}},
    )  # fmt: skip


# -- samplers ---------------------------------------------------------------------------------------------------------


def test_a_curve_counts_evaluations_and_falls_to_the_data() -> None:
    world = load_bed("mog8")
    cast = skeleton_of(world.players["teacher"](0))
    sampler = ode_sample(solver=heun(), times=(1.0, 0.0))
    curve, made = comparison._curve(world, cast, world.data(0), read_at(sampler, comparison.STEPS, True))
    assert list(curve) == [1, 3, 7, 15]  # two slopes a step, and one in the last
    assert made == {1, 3, 7, 15}
    assert curve[15] < 0.5 * curve[3] < 0.5 * curve[1]


def skeleton_of(net: torch.nn.Module) -> Players:
    return Players({"student": Player("student", frozen(), net)})


def test_curves_stand_at_their_numbers(found: Comparison, tmp_path: Path) -> None:
    page = write_comparison(found, tmp_path).read_text()
    root = ElementTree.fromstring(plots.lines("a", "b", {"one": {1: Interval(1.0), 2: Interval(0.1)}}, "n"))
    (line,) = root.iter("polyline")
    (x1, y1), (x2, y2) = (tuple(map(float, p.split(","))) for p in line.get("points", "").split())
    assert x1 < x2 and y1 < y2  # to the right, and down to the smaller value
    assert "Quality against evaluations" in page and "teacher 1.600 at 1" in page


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_comparison_is_one_page_its_markdown_and_a_sheet(found: Comparison, tmp_path: Path) -> None:
    out = write_comparison(found, tmp_path / "new" / "folder")
    assert out == tmp_path / "new" / "folder" / "compare.html"
    assert sorted(p.name for p in out.parent.iterdir()) == ["compare.html", "compare.md", "compare.svg"]
    page, md = Page(out.read_text()), out.with_suffix(".md").read_text()
    assert not page.stack and not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    said = "On mog8, one has the lowest sw2, 0.115: better than two beyond chance, not told apart from three (4 seeds)."
    for text in (
        said, "Sliced 2-Wasserstein distance between samples and data; lower is better", "1 min 15 s",
        "two runs as tuned on bed mog8w: settings for this bed might do better", "9 tests were made",
        "limbeck compare one two three --bed mog8 --seeds 4", "Eight Gaussians, known exactly. 4 seeds of each recipe.",
        "untrained student", "one has the highest recall, 1.000",
    ):  # fmt: skip
        assert text in page.text, text
        assert text in re.sub(r"\\([*_])", r"\1", md), text
    assert "Student's t over seeds" in page.text and "bootstrap" not in page.text
    rendered = Page(MarkdownIt("commonmark").enable("table").render(md))
    assert len(rendered.all("table")) == len(page.all("table"))
    assert [image["src"] for image in rendered.all("img")] == ["compare.svg"]


def test_drawings_and_the_sheet_are_well_formed_and_dressed(found: Comparison, tmp_path: Path) -> None:
    out = write_comparison(found, tmp_path)
    drawings = re.findall(r"<svg.*?</svg>", out.read_text(), re.S)
    assert len(drawings) == 3 + 1 + 4 + 9  # dot plots, curves, scatters, and a whisker for each pair and probe
    assert not any("nan" in svg or "inf" in svg.split(">", 1)[1] for svg in drawings)
    text = (tmp_path / "compare.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg" and len(root.findall(f"{SVG}svg")) == 8 and len(text) < 300_000
    # slides know neither style sheets nor variables: every element carries what it needs
    assert not list(root.iter(f"{SVG}style")) and "var(" not in text and "class=" not in text
    assert all("fill" in e.get("style", "") for e in root.iter(f"{SVG}circle"))
    texts = [t.text or "" for t in root.iter(f"{SVG}text")]
    assert {"sw2", "mmd", "recall", "the data", "one", "two", "three"} <= {*texts}
    heading = [t for t in root.iter(f"{SVG}text") if "20px" in t.get("style", "")]
    assert " ".join(t.text or "" for t in heading) == headline(found)
    assert all(12.5 * len(t.text or "") < float(root.get("width") or 0) for t in heading)  # bold letters are wide
    # nothing is cut off or lies over another drawing
    width, height = (float(root.get(side) or 0) for side in ("width", "height"))
    boxes = [[float(s.get(k) or 0) for k in ("x", "y", "width", "height")] for s in root.findall(f"{SVG}svg")]
    assert all(x >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    for i, (x, y, w, h) in enumerate(boxes):
        assert not any(x < a + c and a < x + w and y < b + d and b < y + h for a, b, c, d in boxes[:i])


def circles(svg: str, kind: str) -> list[tuple[float, float]]:
    marks = [e for e in ElementTree.fromstring(svg).iter("circle") if kind in (e.get("class") or "").split()]
    return [(float(e.attrib["cx"]), float(e.attrib["cy"])) for e in marks]


def test_dots_lie_where_their_figures_are() -> None:
    rows = {name: (figures["sw2"], student_t(figures["sw2"])[0]) for name, figures in FIGURES.items()}
    svg = plots.dots("sw2", "says", rows, {"teacher": ("teacher 0.2", 0.2), "before": ("raw 0.9", 0.9)}, "lower")
    drawn, values = circles(svg, "seed"), [v for figures, _ in rows.values() for v in figures]
    slope, start = np.polyfit(values, [x for x, _ in drawn], 1)
    assert slope > 0 and [x for x, _ in drawn] == pytest.approx(slope * np.array(values) + start, abs=0.06)
    assert len({y for _, y in drawn}) == len(rows) and all(0 < x < plots.WIDTH for x, _ in drawn)
    root = ElementTree.fromstring(svg)
    (teacher,) = {e.attrib["x1"] for e in root.iter("line") if e.get("class") == "teacher line" and e.get("y1") == "20"}
    assert float(teacher) == pytest.approx(slope * 0.2 + start, abs=0.1)
    bands = [(float(e.attrib["x"]), float(e.attrib["width"])) for e in root.iter("rect")]
    for (x, w), (_, mean) in zip(bands, rows.values(), strict=True):
        assert mean.low is not None and mean.high is not None
        assert [x, x + w] == pytest.approx([max(2.0, slope * mean.low + start), slope * mean.high + start], abs=0.2)
    assert "← lower is better" in svg and "raw 0.9, right of the axis" in svg and "teacher 0.2<" in svg


def test_figures_that_agree_or_stand_alone_can_be_drawn() -> None:
    for values in ([1.0, 1.0], [0.0], [-3.0]):
        svg = plots.dots("p", "says", {"a": (values, Interval(values[0]))}, {"teacher": ("t", 5.0)}, "higher")
        assert all(0 < x < plots.WIDTH for x, _ in circles(svg, "seed")) and "nan" not in svg
        assert "t, right of the axis" in svg


def test_a_scatter_shows_samples_and_how_dense_the_truth_is() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal((3.0, -1.0), (2.0, 0.5), (20_000, 2))
    points = np.concatenate([truth[:50], [[1000.0, 0.0]]])  # one lies far outside
    svg = plots.scatter("s", "says", points, truth, "after")
    drawn = circles(svg, "sample")
    assert len(drawn) == 50
    for axis in (0, 1):
        slope, start = np.polyfit(points[:50, axis], [d[axis] for d in drawn], 1)
        assert [d[axis] for d in drawn] == pytest.approx(slope * points[:50, axis] + start, abs=0.06)
        assert np.sign(slope) == (1, -1)[axis]
        truth[:, axis] = slope * truth[:, axis] + start
    # each step of the density is around its share of the truth, in the least room: inside the ellipse of that share
    for path, share in zip(ElementTree.fromstring(svg).iter("path"), plots.SHARES, strict=True):
        cells = np.array(re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)", path.attrib["d"]), dtype=float)
        left, top, right, bottom = cells.T
        x, y = truth[:4000, 0, None], truth[:4000, 1, None]
        inside = ((left <= x) & (x < right) & (top <= y) & (y < bottom)).any(1)
        assert inside.mean() == pytest.approx(share, abs=0.02)
        far = np.abs(truth[:4000] - truth.mean(0)) / truth.std(0)
        assert (far[inside] ** 2).sum(1).max() < 2 * stats.chi2(2).ppf(share) + 1


def test_names_of_files_stay_text(found: Comparison, tmp_path: Path) -> None:
    evil = '</text><script>alert(1)</script>&"`|.py'
    named = {evil if key == "two" else key: value for key, value in found.figures.items()}
    changed = replace(found, figures=named, samples={evil: found.samples["two"]}, settings={evil: evil})
    out = write_comparison(changed, tmp_path)
    page = Page(out.read_text())
    assert not page.all("script") and evil in page.text
    assert not list(ElementTree.fromstring((tmp_path / "compare.svg").read_text()).iter(f"{SVG}script"))
    assert shlex.split(page.text.split("To reproduce it")[1].split("Written by")[0])[:5] == [
        "limbeck", "compare", "one", evil, "three"
    ]  # fmt: skip


# -- words ------------------------------------------------------------------------------------------------------------


def test_intervals_and_tests_are_students(found: Comparison, tmp_path: Path) -> None:
    page = Page(write_comparison(found, tmp_path).read_text())
    for a, b in (("one", "two"), ("one", "three"), ("two", "three")):
        x, y = FIGURES[a]["sw2"], FIGURES[b]["sw2"]
        p = stats.ttest_rel(x, y).pvalue
        row = page.text.split(f"{a} minus {b}")[1][:200]
        assert f"{p:.2g}" in row
        low, high = stats.t.interval(0.95, 3, np.mean(x) - np.mean(y), stats.sem(np.subtract(x, y)))
        assert f"({low:.4f} to {high:.4f})" in row
    low, high = stats.t.interval(0.95, 3, np.mean(FIGURES["one"]["sw2"]), stats.sem(FIGURES["one"]["sw2"]))
    told = re.findall(r"[\d.]+", summary(found)["one"]["sw2"])
    assert [float(v) for v in told] == pytest.approx([0.115, low, high], abs=6e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "has the lowest sw2, 0.115: better than two beyond chance, not told apart from three (4 seeds)."),
        ({"three": [0.3, 0.33, 0.31, 0.33]}, "one has the lowest sw2, 0.115: better than two and three beyond chance"),
        ({"three": [0.2, 0.22, 0.21, 0.23]}, "better than two beyond chance, ahead of three by the same on every seed"),
        ({"two": [0.2, 0.1, 0.3, 0.1]}, "0.115, but 4 seeds do not tell it apart from two and three."),
        ({"one": [math.nan, 0.1, 0.1, 0.1]}, "three has the lowest sw2, 0.120: better than two"),
        (dict.fromkeys(FIGURES, [0.1] * 4), "all have sw2 0.100."),
        (dict.fromkeys(FIGURES, [math.nan] * 4), "no recipe has a finite sw2."),
    ],
)
def test_the_headline_says_no_more_than_seeds_do(found: Comparison, changes: Any, said: str, tmp_path: Path) -> None:
    figures = {key: {**held, "sw2": changes.get(key, held["sw2"])} for key, held in FIGURES.items()}
    changed = replace(found, figures=figures)
    assert said in headline(changed)
    text = write_comparison(changed, tmp_path).read_text()
    assert said in Page(text).text and not re.search(r"\bnan\b", text)
    assert ("NaN or infinite on seed 0" in text) is ("nan" in str(changes))


def test_one_seed_and_one_recipe_say_so(found: Comparison, tmp_path: Path) -> None:
    first = {key: {probe: values[:1] for probe, values in held.items()} for key, held in FIGURES.items()}
    page = Page(write_comparison(replace(found, figures=first), tmp_path).read_text())
    assert "one has the lowest sw2, 0.100, on one seed: another may turn that" in page.text
    assert "nothing was tested" in page.text and "minus" not in page.text
    alone = replace(found, figures={"one": FIGURES["one"]}, samples={}, truth=None)
    assert headline(alone) == "On mog8, one has sw2 0.115 (teacher 0.0500, untrained student 0.560)."
    assert "Samples" not in Page(write_comparison(alone, tmp_path).read_text()).text


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(tmp_path: Path) -> str:
    """A recipe of one's own that takes five steps."""
    (path,) = skeleton.write("quick", tmp_path)
    path.write_text(path.read_text().replace('"distill.steps": 200', '"distill.steps": 5'))
    return str(path)


def test_recipes_run_side_by_side_with_the_beds_own_players_beside_them(quick: str) -> None:
    said: list[str] = []
    found = compare([quick, "alone"], bed="digits_few", seeds=2, say=said.append)
    assert list(found) == [quick, "alone"] and found.seeds == 2
    assert all(len(found[key]["accuracy"]) == 2 for key in found)
    assert [re.sub(r".*: (\S+ seed \d): .*\(\d+\.\d s\)", r"\1", line) for line in said] == [
        f"{key} seed {seed}" for key in (quick, "alone") for seed in (0, 1)
    ]
    # a baseline is as tuned by a claim on this bed, although one on another bed has it too
    assert found.settings["alone"] == "as tuned on this bed" and found["alone"]["accuracy"][0] > 0.8
    assert found.settings[quick] == "at the size of a claim on this bed, not tuned"
    bed = load_bed("digits_few")
    test, net = bed.data(1)["test"].take(torch.arange(500)), bed.players["teacher"](0).eval()
    with torch.no_grad():
        right = (net(test, frozenset({"logits"}))["logits"].argmax(-1) == test["y"]).float().mean()
    assert found.references["teacher"]["accuracy"] == pytest.approx([float(right)] * 2)
    assert found.references["before"]["accuracy"][0] < 0.3
    assert found.samples == {} and found.truth is None
    # the same again gives the same figures
    assert compare([quick], bed="digits_few", seeds=1, say=said.append)[quick]["nll"][0] == found[quick]["nll"][0]


def test_samples_are_those_that_the_probes_measure() -> None:
    found = compare(["flow-map-self-distill"], bed="mog8", seeds=1, say=lambda _: None)
    samples, truth = found.samples["flow-map-self-distill"].double(), found.truth
    assert samples.shape == (comparison.DRAWN, 2) and truth is not None and truth.shape == (10_000, 2)
    angle = torch.arange(64) * torch.pi / 64
    u = torch.stack((angle.cos(), angle.sin()), 1).double()
    distance = sliced_wasserstein(samples, truth[: len(samples)].double(), u)
    (measured,) = found["flow-map-self-distill"]["sw2"]
    assert distance == pytest.approx(measured, abs=0.1)
    # the teacher, drawn by its flow, is as far from data as other data are; the student before it learns is not
    other = load_bed("mog8").data(0)["valid"].take(torch.arange(10_000))["x"]
    assert isinstance(other, torch.Tensor)
    floor = sliced_wasserstein(other.double(), truth.double(), u)
    assert found.references["teacher"]["sw2"] == pytest.approx([floor], abs=0.02)
    assert measured < 0.5 * found.references["before"]["sw2"][0]


def test_probes_that_ask_the_teacher_find_it_though_the_recipe_has_none() -> None:
    found = compare(["sft"], bed="oracle_lm", seeds=1, say=lambda _: None)
    before, teacher = (found.references[who]["sequence_kl_forward"][0] for who in ("before", "teacher"))
    assert teacher == pytest.approx(0, abs=1e-9) and 0 < found["sft"]["sequence_kl_forward"][0] < before


def test_recipes_that_cannot_run_are_named_before_any_runs(quick: str, tmp_path: Path) -> None:
    asked = ["compare", quick, "gkd", "mtt", "dmd2", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*asked, "--bed", "digits_few"])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert done.stderr.startswith("limbeck: cannot run on bed digits_few: gkd (unknown column 'mask' in the batch;")
    assert "mtt (its product is no student" in done.stderr and "; dmd2 (" in done.stderr and quick not in done.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(
        BadValue, match=r"weighted-sd .unknown player 'student' in bed cloze.*possible: oracle, teacher"
    ):
        compare(["weighted-sd"], bed="cloze")
    with pytest.raises(BadValue, match="needs a recipe and a seed, got 0 recipes and 3 seeds"):
        compare([], bed="mog8")
    with pytest.raises(BadValue, match="got 1 recipes and 0 seeds"):
        compare(["kd"], bed="mog8", seeds=0)


def test_a_run_that_became_nan_is_said_and_the_others_go_on(quick: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, said = comparison.arm_loop, []

    def fails_on_seed_1(recipe: Any, bed: Any, seed: int, max_steps: int = 0, **more: Any) -> Any:
        if seed == 1:
            raise NotFinite("student/loss is nan at step 3")
        return make(recipe, bed, seed, max_steps, **more)

    monkeypatch.setattr(comparison, "arm_loop", fails_on_seed_1)
    found = compare([quick], bed="digits_few", seeds=3, say=said.append)
    assert [math.isnan(v) for v in found[quick]["accuracy"]] == [False, True, False]
    assert said[1] == f"digits_few: {quick} seed 1: student/loss is nan at step 3"


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(found: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, with a comparison that is there already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(limbeck, "api", SimpleNamespace(compare=lambda keys, **_: found), raising=False)
    return lambda *args: CliRunner().invoke(app, ["compare", "vkd", "--bed", "mog8", *args])


def test_the_command_draws_beside_you_and_prints_where(command: Any, found: Comparison) -> None:
    done = command()
    assert done.exit_code == 0 and done.stdout.endswith(f"{headline(found)}\ncompare-mog8/compare.html\n")
    assert "one:\n  sw2: 0.115 (" in done.stdout and Path("compare-mog8/compare.svg").exists()
    assert command("--out", "a/b").exit_code == 0 and Path("a/b/compare.md").exists()


def test_json_is_the_figures_and_pictures_only_where_asked(command: Any) -> None:
    done = command("--json")
    assert json.loads(done.stdout) == FIGURES and not list(Path().iterdir())
    done = command("--json", "--out", "drawn")
    assert json.loads(done.stdout) == FIGURES and Path("drawn/compare.html").exists()


def test_a_place_that_cannot_be_written_is_told(command: Any, found: Comparison) -> None:
    Path("file").write_text("")
    done = command("--out", "file")
    assert done.exit_code == 2 and "file" in done.stderr and done.stderr.count("\n") == 1
    with pytest.raises(RunError, match="cannot write file/compare"):
        write_comparison(found, Path("file"))
