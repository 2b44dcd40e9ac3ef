"""The report and the model card, on runs that finished, broke off, or hold what nobody expects."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from limbeck.batch import Batch
from limbeck.errors import BadData
from limbeck.evaluate import Cost, Examination, Interval, Speed, buckets, calibration, compare, figures
from limbeck.part import part, terms
from limbeck.players import Players
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.report import formulas, plots, write_card, write_report
from limbeck.report.card import About
from limbeck.report.words import headline, versus
from limbeck.roles import frozen, learning

ARGV = ["/opt/limbeck/.venv/bin/limbeck", "distill", "kd", "--teacher", "./big model", "--data", "reviews.csv"]
SUBJECTS = ["plot", "acting", "score", "pacing", "ending", "dialogue", "camera work", "cast"]


def examination(seed: int = 0, n: int = 480, skill: float = 0.93) -> Examination:
    """Reviews in three sources, a good teacher, and a student that improves, least of all on irony."""
    rng = np.random.default_rng(seed)
    source = rng.choice(["letters", "newspaper", "irony"], size=n, p=[0.5, 0.3, 0.2])
    teacher = (rng.random(n) < 0.94).astype(float)
    before = (rng.random(n) < 0.71).astype(float)
    after = teacher * (rng.random(n) < np.where(source == "irony", skill - 0.25, skill + 0.03))
    sure = {"teacher": (0.9, 0.08), "before": (0.62, 0.1), "after": (0.86, 0.1)}
    scores = {"teacher": teacher, "before": before, "after": after}
    texts = [
        f"The {rng.choice(SUBJECTS)} was {rng.choice(['fine', 'dull', 'a joy', 'not what I paid for'])}, and the "
        f"{rng.choice(SUBJECTS)} {'saved' if rng.random() < 0.5 else 'ruined'} the evening. "
        + "I would see it again. "
        * int(rng.integers(0, 8))
        for _ in range(n)
    ]
    truth = rng.choice(["positive", "negative"], size=n)
    other = {"positive": "negative", "negative": "positive"}
    return Examination(
        qualities=[
            compare("accuracy", scores),
            compare("log loss", {w: 0.25 + 1.1 * (1 - s) + 0.1 * rng.random(n) for w, s in scores.items()},
                    higher_is_better=False),
        ],
        score="accuracy",
        scores={who: s.tolist() for who, s in scores.items()},
        inputs=texts,
        expected=truth.tolist(),
        outputs={w: [t if ok else other[t] for t, ok in zip(truth, s, strict=True)] for w, s in scores.items()},
        slices={"source": source.tolist(), "length (characters)": buckets([len(t) for t in texts])},
        confidences={w: np.clip(rng.normal(*sure[w], n), 0.5, 1).tolist() for w in scores},
        costs={
            "teacher": Cost(66_955_010, 267_820_040, 268_400_000, Speed(0.412, 0.405, 0.431, 9), 64, 91_000_000, "RSS"),
            "after": Cost(8_300_000, 33_200_000, 33_500_000, Speed(0.133, 0.131, 0.136, 9), 64, 22_000_000, "RSS"),
        },
        notes=["The held-out rows come from the same file as the training rows."],
    )  # fmt: skip


def make_run(path: Path, *, seed: int = 0, exam: Examination | None = None, **entries: object) -> Path:
    """A run directory as a distillation leaves it."""
    path.mkdir(parents=True)
    record = {
        "recipe": "kd",
        "resolved": {
            "title": "Distilling", "deviates": [],
            "players": {"student": {"is": "role", "optimizer": {"part": "adamw", "lr": 0.0005}, "context": None},
                        "teacher": {"is": "role", "optimizer": None}},
            "stages": [{"is": "learn", "name": "distil", "steps": 600, "clip": 1.0, "phases": [
                {"is": "phase", "name": "student", "loss": {"terms": {
                    "kd": {"is": "scaled", "weight": 0.9, "expr": {"part": "kl", "temperature": 2.0}},
                    "hard": {"part": "ce"}}}}]}],
        },
        "parts": {"kl(temperature=2.0)": "T^2 sum_c p_c log(p_c / q_c),  p = softmax(z_t / T),  q = softmax(z_s / T)",
                  "ce()": "-log softmax(z)_y"},
        "argv": ARGV, "seed": seed, "status": "done",
        "started": "2026-03-01T10:00:00+00:00", "finished": "2026-03-01T10:02:05+00:00",
        "versions": {"limbeck": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "data": {"train": "9f2c44aa01b3c7de", "valid": "77aa01c2d94e5f60", "test": "0b1d23ff98e7a6c5"},
        "host": {"cpu": "2 cores, x86_64", "memory": "8.0 GiB", "gpu": "none"},
        **entries,
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(record))
    rng = np.random.default_rng(seed)
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(600):
            noise, decay = rng.normal(0, 0.04), np.exp(-step / 130)
            row = {"stage": "distil", "step": step, "time": step * 0.2}
            row |= {"student/kd": 0.12 + 1.3 * decay + noise * decay, "student/hard": 0.3 + 0.5 * decay + noise / 3}
            row |= {"student/grad_norm": 2000.0**decay}
            if step % 50 == 49:
                row["eval/accuracy"] = 0.87 - 0.2 * decay
            file.write(json.dumps(row) + "\n")
        file.write(json.dumps({"stage": "measure", "step": 0, "time": 121.0, "bytes": 33_500_000}) + "\n")
    if exam is not None:
        exam.save(path)
    return path


@pytest.fixture(scope="module")
def exam() -> Examination:
    return examination()


class Page(HTMLParser):
    """What a browser would make of a page: open tags, addresses, texts."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_a_finished_run_tells_everything_in_one_file(tmp_path, exam):
    out = write_report([make_run(tmp_path / "a", exam=exam)])
    assert out == tmp_path / "a" / "report.html"
    html, md = out.read_text(), out.with_suffix(".md").read_text()
    page = Page(html)
    assert not page.stack  # every element is closed
    kept = 100 * exam.qualities[0].kept.value
    said = f"keeps {kept:.0f}% of the teacher's accuracy at 1/8 of the parameters, 3.1x faster on this machine."
    assert said in page.text and said in md
    for text in ["95% interval", "Worst regressions", "source", "ECE", "student/kd", "T^2 sum_c", "9f2c44aa01b3c7de",
                 "adamw(lr=0.0005)",
                 "kd: 0.9 * kl(temperature=2) + hard: ce()",
                 "2 min 5 s", "limbeck distill kd --teacher './big model'", "same file as the training rows",
                 "licence of the teacher and of the data is not stated"]:  # fmt: skip
        assert text in page.text, text
        assert text in re.sub(r"\\([*_])", r"\1", md), text
    assert len(html) < 400_000
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1


def test_the_page_needs_nothing_from_outside(tmp_path, exam):
    page = Page(write_report([make_run(tmp_path / "a", exam=exam)]).read_text())
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert all(a.get("href", "#").startswith("#") for _, a in page.tags)
    assert not any("src" in a for _, a in page.tags)


def test_drawings_are_well_formed_and_described(tmp_path, exam):
    html = write_report([make_run(tmp_path / "a", exam=exam)]).read_text()
    drawings = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(drawings) > 15
    for svg in drawings:
        root = ElementTree.fromstring(svg)
        assert root.get("aria-hidden") == "true" or len(root.get("aria-label")) > 10
        assert "nan" not in svg and "inf" not in svg.split(">", 1)[1]
    for table in re.findall(r"<table aria-label=.+?</table>", html, re.S):
        assert '<th scope="col"' in table and '<th scope="row"' in table


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_colours_have_the_contrast_that_accessibility_asks_for():
    # WCAG 2.2: 4.5 for text, 3 for drawings, on the page and on cards, in light and in dark
    css = (Path(plots.__file__).parent / "report.css").read_text()
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)[:2]]
    for theme in themes:
        for name, colour in theme.items():
            if name in ("page", "card", "line"):
                continue
            for ground in (theme["page"], theme["card"]):
                a, b = sorted((luminance(colour), luminance(ground)))
                assert (b + 0.05) / (a + 0.05) >= (3 if name in ("teacher", "before", "after") else 4.5), (name, ground)


def test_hostile_texts_stay_texts(tmp_path, exam):
    evil = "<script>alert(1)</script> | `x` ```\n# no heading [a](javascript:b) &amp;"
    bad = replace(exam, inputs=[evil] * len(exam.inputs), slices={evil: [evil] * len(exam.inputs)}, notes=[evil])
    run = make_run(tmp_path / "a", exam=bad, argv=["limbeck", evil], resolved={evil: evil}, recipe=evil)
    out = write_report([run])
    page = Page(out.read_text())
    assert not page.all("script") and "<script>alert(1)</script> | `x`" in page.text
    rendered = Page(MarkdownIt("commonmark").enable("table").render(out.with_suffix(".md").read_text()))
    assert not rendered.all("script") and not [a for a in rendered.all("a") if "javascript" in (a.get("href") or "")]
    assert "no heading" not in [t for t, _ in rendered.tags] and len(rendered.all("h1")) == 1


def test_tables_in_markdown_are_tables(tmp_path, exam):
    md = write_report([make_run(tmp_path / "a", exam=exam)]).with_suffix(".md").read_text()
    page = Page(MarkdownIt("commonmark").enable("table").render(md))
    html = Page((tmp_path / "a" / "report.html").read_text())
    assert len(page.all("table")) == len(html.all("table"))


@pytest.mark.parametrize("status", ["interrupted", "running"])
def test_a_run_that_broke_off_says_so(tmp_path, status):
    run = make_run(tmp_path / "a", status=status, finished=None)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "distil", "step": 600, "student/kd": NaN}\n{"stage": "dis')
    text = Page(write_report([run]).read_text()).text
    assert f"Nothing is known of the student's quality: the run is {status}" in text
    assert "student/kd was NaN or infinite, first at step 600" in text
    assert "1 lines of metrics.jsonl are damaged" in text
    assert "There is no evaluation" in text and "Worst regressions" not in text


def test_an_empty_run_still_gives_a_report(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    text = Page(write_report([tmp_path]).read_text()).text
    assert "of unknown status" in text and "The command was not recorded" in text and "no metrics.jsonl" in text


def test_a_damaged_evaluation_is_told_and_left_out(tmp_path):
    run = make_run(tmp_path / "a")
    (run / "evaluation.json").write_text("{")
    assert "evaluation is damaged" in Page(write_report([run]).read_text()).text


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(BadData, match=r"run\.json"):
        write_report([tmp_path])
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(BadData, match="object"):
        write_report([tmp_path])
    with pytest.raises(BadData, match="at least one"):
        write_report([])


def test_several_runs_share_a_page_with_a_table_on_top(tmp_path, exam):
    runs = [make_run(tmp_path / "a", exam=exam), make_run(tmp_path / "b", recipe="feature-mse", status="interrupted")]
    out = write_report(runs)
    assert out == tmp_path / "report.html"
    page = Page(out.read_text())
    assert page.text.index("a (kd)") < page.text.index("b (feature-mse)") < page.text.index("Worst regressions")
    anchors = {a["href"][1:] for a in page.all("a")}
    assert anchors == {a["id"] for _, a in page.tags if a.get("id")} == {"run-1", "run-2"}
    assert len(page.all("h1")) == 1
    assert write_report(runs, tmp_path / "out").name == "report.html"
    assert write_report(runs, tmp_path / "mine.html") == tmp_path / "mine.html" and (tmp_path / "mine.md").exists()


def cost(parameters: int, seconds: float, rows: int = 1) -> Cost:
    return Cost(parameters, 4 * parameters, speed=Speed(seconds, seconds * 0.95, seconds * 1.05, 9), rows=rows)


@pytest.mark.parametrize(
    ("quality", "costs", "said"),
    [
        (figures("accuracy", {"teacher": 0.8, "after": 0.6}), {}, "keeps 75% of the teacher's accuracy."),
        (figures("accuracy", {"teacher": 0.8, "after": 0.797}), {}, "keeps 99.6% of the teacher's accuracy."),
        (figures("accuracy", {"teacher": 0.8, "after": 0.84}), {}, "reaches 105% of the teacher's accuracy."),
        (figures("perplexity", {"teacher": 10, "after": 12}, higher_is_better=False), {}, "1.20 times the teacher's"),
        (figures("reward", {"teacher": -1.0, "after": -2.0}), {}, "has reward -2.000."),
        (figures("accuracy", {"before": 0.5, "after": 0.6}), {}, "has accuracy 0.600 (0.500 before)."),
        (figures("accuracy", {"teacher": 1.0, "after": 1.0}),
         {"teacher": cost(100, 1.0), "after": cost(50, 1.01)},
         "at 50% of the parameters, about as fast on this machine."),
        (figures("accuracy", {"teacher": 1.0, "after": 1.0}),
         {"teacher": cost(100, 1.0), "after": cost(100, 2.0)},
         "at the same number of parameters, 2.0x slower on this machine."),
        # twice the time for four times the rows is twice the speed
        (figures("accuracy", {"teacher": 1.0, "after": 1.0}),
         {"teacher": cost(100, 1.0), "after": cost(300, 2.0, rows=4)},
         "at 3.0 times the parameters, 2.0x faster on this machine."),
    ],
)  # fmt: skip
def test_the_headline_says_what_was_measured_and_no_more(quality, costs, said):
    assert said in headline(Examination(qualities=[quality], costs=costs), "done")


def test_a_difference_is_claimed_only_where_it_was_shown():
    rng = np.random.default_rng(0)
    a = rng.normal(size=50)
    q = compare("loss", {"before": a + 1, "teacher": a + rng.normal(0, 1, 50), "after": a}, higher_is_better=False)
    assert versus(q, "before", q.versus["before"])[0] == "good"
    mark, text = versus(q, "teacher", q.versus["teacher"])
    assert mark == "open" and "No difference to the teacher was shown" in text
    worse = compare("score", {"before": a + 1, "after": a})
    assert versus(worse, "before", worse.versus["before"])[0] == "bad"
    single = figures("FID", {"teacher": 3.0, "after": 4.0}, higher_is_better=False)
    assert versus(single, "teacher", single.versus["teacher"])[0] == "open"


@pytest.mark.parametrize("points", [[(0, 1.0), (1, 1.0)], [(0, 0.0), (9, -5.0)], [(0, 1e-9), (10**6, 1e9)], [(3, 2.0)]])
def test_curves_of_any_range_stay_in_the_frame(points):
    root = ElementTree.fromstring(plots.curve("t", "s", points))
    line = next(e for e in root.iter("polyline")).get("points")
    xy = np.array([[float(v) for v in p.split(",")] for p in line.split()])
    assert (xy[:, 0] >= plots.LEFT - 0.1).all() and (xy[:, 0] <= plots.RIGHT + 0.1).all()
    assert (xy[:, 1] >= plots.TOP - 0.1).all() and (xy[:, 1] <= plots.BOTTOM + 0.1).all()


def test_long_curves_keep_their_extremes():
    values = np.random.default_rng(0).normal(size=10_000)
    groups = plots.thinned(list(enumerate(values)))
    assert len(groups) <= plots.POINTS
    assert min(g[2] for g in groups) == values.min() and max(g[3] for g in groups) == values.max()
    assert np.mean([g[1] for g in groups]) == pytest.approx(values.mean(), abs=0.01)


def test_whiskers_stand_where_their_numbers_are():
    root = ElementTree.fromstring(plots.whisker(Interval(0.0, -1.0, 0.5), -1, 1, "after", mark=0))
    assert root.find("circle").get("cx") == "70.0"
    assert [e.get("x1") for e in root.findall("line")][1:] == ["70.0", "5.0"]


def test_reliability_dots_grow_with_rows():
    found = calibration([0.95] * 90 + [0.55] * 10, [1] * 100)
    dots = ElementTree.fromstring(plots.reliability("t", "s", found, "after")).findall("circle")
    assert float(dots[0].get("r")) < float(dots[1].get("r")) and {d.get("cy") for d in dots} == {f"{plots.TOP:.1f}"}


def test_formulas_are_those_of_the_docstrings():
    @part
    def adam(params: object, *, lr: float = 0.1) -> None:
        """An optimiser."""

    @part
    def square(players: Players, batch: Batch, *, power: float = 2.0) -> None:
        """A loss.

        |z|^power
        """

    phase = Phase("p", ("student",), terms(a=square(), b=0.5 * square(power=3.0)))
    recipe = Recipe("r", "R", "", "f", "method", "student", "none",
                    {"student": learning(adam()), "teacher": frozen()}, (Learn("s", (phase,)),))  # fmt: skip
    maths = "|z|^power"
    assert formulas(recipe) == {"adam(lr=0.1)": "", "square(power=2.0)": maths, "square(power=3.0)": maths}


def test_the_card_is_one_that_hubs_read(tmp_path, exam):
    run = make_run(tmp_path / "run", exam=exam)
    (tmp_path / "student").mkdir()
    about = About("Small: a reviewer", teacher="acme/big", base_model="acme/small", license="apache-2.0",
                  library="transformers", task="text-classification", datasets=["acme/reviews", "my file.csv"],
                  load='pipe = pipeline("text-classification", "small")', citation="@misc{kd}")  # fmt: skip
    path = write_card(tmp_path / "student", run, about)
    card = ModelCard.load(path)
    assert (card.data.license, card.data.base_model, card.data.datasets) == (
        "apache-2.0",
        "acme/small",
        ["acme/reviews"],
    )
    assert card.data.tags == ["distillation", "limbeck", "kd"] and card.data.pipeline_tag == "text-classification"
    for text in [
        "Small: a reviewer",
        "my file.csv",
        "| teacher |",
        "Teacher: not stated.",
        "Data: not stated.",
        "@misc{kd}",
    ]:
        assert text in card.text, text


def test_a_card_written_while_the_run_ends_does_not_call_it_unfinished(tmp_path, exam):
    path = write_card(tmp_path, make_run(tmp_path / "run", exam=exam, status="running"), About("x"))
    assert "The run is running" not in path.read_text()


def test_a_bare_card_claims_nothing(tmp_path):
    run = make_run(tmp_path / "run", status="interrupted", versions={})
    path = write_card(tmp_path, run, About("x", base_model="./local/dir/model"))
    front = yaml.safe_load(path.read_text().split("---")[1])
    assert front == {"license": "unknown", "tags": ["distillation", "limbeck", "kd"]}
    assert "Nothing is known of the student's quality" in path.read_text()
    assert "./local/dir/model" in path.read_text()
