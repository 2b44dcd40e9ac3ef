"""Remembered teachers: asked once, answered from the disk ever after, and never mistaken for another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from limbeck.adapters.cache import TargetCache
from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.data import open_data
from limbeck.adapters.recalled import Recalled, about_teacher, only_remembers, open_recalled, weights_hash
from limbeck.adapters.source import open_player, read_for
from limbeck.assets import __path__ as assets
from limbeck.batch import Batch
from limbeck.beds._text import tiny_llama
from limbeck.beds.oracle_lm import oracle
from limbeck.commands import app
from limbeck.data import Source, batch_of
from limbeck.errors import BadData, BadValue, Mismatch, UnknownName
from limbeck.loop import Loop, Options
from limbeck.parts.rollout import sample
from limbeck.parts.sparse import captured, drawn, likeliest, nucleus
from limbeck.players import Player
from limbeck.recipe import Make, Recipe
from limbeck.roles import cached, frozen
from limbeck.run import Run
from tests.adapters import tiny
from tests.adapters.test_cache import contents
from tests.test_resume import in_child

TEACHER, STUDENT = (Path(assets[0]) / name for name in ("arith-teacher", "arith-warm-student"))
ROOT = Path(__file__).parents[2]
WANT = frozenset({"ids", "logp", "tail"})
FACTS = dict(title="t", paper="p", family="mine", kind="method", learns="s", teacher="white-box")


class Counting(CausalLM):
    """A random language model that counts the rows that it is asked for, and can be made to die."""

    def __init__(self, seed: int = 0, dies_at: int = -1) -> None:
        super().__init__(tiny_llama(40, seed, width=16, layers=1, heads=2))
        self.asked, self.dies_at = 0, dies_at

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        self.asked += len(batch["tokens"])
        if 0 < self.dies_at <= self.asked:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch, want)


class Rows:
    """A source of 50 rows of three lengths, of which the last five repeat the first and row 7 has no target."""

    def __len__(self) -> int:
        return 50

    def take(self, rows: Tensor) -> dict[str, Any]:
        which = rows % 45
        length = 5 + 2 * (which % 3)
        tokens = (which[:, None] * 7 + torch.arange(9) * 3) % 37 + 3
        at = torch.arange(9)
        mask = (at >= 3) & (at < length[:, None]) & (which != 7)[:, None]
        width = int(length.max())
        tokens = tokens.masked_fill(at >= length[:, None], 0)[:, :width]
        return {"tokens": tokens, "mask": mask[:, :width], "length": length}

    @property
    def fingerprint(self) -> str:
        return "rows"


def recalled(path: Path, net: nn.Module, targets: Any = None, **settings: Any) -> Recalled:
    return Recalled(TargetCache(path, about_teacher(net, "net", targets, **settings)), net)


def player(net: nn.Module) -> Player:
    made = Player("teacher", frozen(), net)
    made.turn("test", False)
    return made


def some(source: Source, *rows: int) -> Batch:
    return batch_of(source, torch.tensor(rows))


@pytest.fixture
def words(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(11, 20) for b in range(11, 20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# -- asking once ------------------------------------------------------------------------------------------------------


def test_a_row_is_asked_for_once_and_answered_without_the_teacher_ever_after(tmp_path: Path) -> None:
    net = Counting()
    teacher = player(recalled(tmp_path / "c", net, likeliest(k=5)))
    first = teacher(some(Rows(), 0, 1, 2, 1), "ids", "logp", "tail")
    assert net.asked == 3
    again = teacher(some(Rows(), 1, 2, 3, 7), "ids", "logp", "tail")
    assert net.asked == 4
    assert torch.equal(first[0][1, :7], again[0][0, :7]) and torch.equal(first[1][1, :7], again[1][0, :7])
    alone = player(Recalled(TargetCache(tmp_path / "c")))
    for a, b in zip(alone(some(Rows(), 0, 1, 2, 1), "ids", "logp", "tail"), first, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(
        BadData, match=r"c does not hold 1 of 2 rows .*, the first of them row 9: cache:.*c:TEACHER fills it"
    ):
        alone(some(Rows(), 0, 9), "ids")


def test_what_is_remembered_is_what_the_teacher_says(tmp_path: Path) -> None:
    net, batch = Counting(), some(Rows(), *range(12))
    ids, logp, tail = player(recalled(tmp_path / "c", net, likeliest(k=6), step=1 / 256))(batch, "ids", "logp", "tail")
    with torch.no_grad():
        truth = net(batch, frozenset({"logits"}))["logits"].log_softmax(-1)
    for b, t in batch["mask"].nonzero().tolist():
        values, best = truth[b, t - 1].topk(6)
        order = best.argsort()
        assert ids[b, t].tolist() == best[order].tolist()
        torch.testing.assert_close(logp[b, t], values[order], atol=1 / 256 + 1e-3, rtol=0)
        torch.testing.assert_close(tail[b, t].exp(), 1 - values.exp().sum(), atol=1e-3, rtol=0)


def test_the_report_is_the_distance_to_what_is_read(tmp_path: Path) -> None:
    net, batch = Counting(), some(Rows(), *range(45))
    net = recalled(tmp_path / "c", net, nucleus(p=0.5, k=9))
    ids, logp, tail = player(net)(batch, "ids", "logp", "tail")
    with torch.no_grad():
        p = net.teacher(batch, frozenset({"logits"}))["logits"].double().softmax(-1)  # type: ignore[misc]
    kl, mass = [], []
    for b, t in batch["mask"].nonzero().tolist():
        kept = logp[b, t] > -torch.inf
        n = int(kept.sum())
        q = torch.full((40,), float(tail[b, t].double().exp()) / (40 - n), dtype=torch.float64)
        q[ids[b, t, kept]] = logp[b, t, kept].double().exp()
        assert float(q.sum()) == pytest.approx(1, abs=1e-6)
        kl.append(float((p[b, t - 1] * (p[b, t - 1] / q).log()).sum()))
        mass.append(float(p[b, t - 1][ids[b, t, kept]].sum()))
    said = net.cache.report()
    assert said["kl"] == pytest.approx(sum(kl) / len(kl), abs=2e-6) and said["tokens"] == len(kl)
    assert said["mass"] == pytest.approx(sum(mass) / len(mass), abs=2e-6)
    assert f"{len(kl)} tokens" in str(net.cache) and "KL" in str(net.cache)


def test_counts_of_draws_survive_the_disk_exactly(tmp_path: Path) -> None:
    net = recalled(tmp_path / "c", Counting(), drawn(draws=30))
    _, logp, tail = player(net)(some(Rows(), *range(20)), "ids", "logp", "tail")
    mask = some(Rows(), *range(20))["mask"]
    counts = 30 * logp.double().exp()
    assert (counts - counts.round()).abs().max() < 1e-5
    assert torch.allclose(counts.sum(-1)[mask], torch.tensor(30.0, dtype=torch.float64), atol=1e-4)
    assert (tail[mask] == -torch.inf).all() and net.cache.report()["kl"] is None and "KL" not in str(net.cache)


def test_the_draws_of_a_row_are_its_own(tmp_path: Path) -> None:
    """Whatever rows are asked for beside it."""
    found = []
    for chunk in (4, 50):
        path = tmp_path / str(chunk)
        fill(path, tmp_path / f"run{chunk}", Counting(), chunk=chunk, targets=drawn(draws=20))
        found.append(player(Recalled(TargetCache(path)))(some(Rows(), *range(50)), "ids", "logp"))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_a_stored_player_with_these_columns_answers_the_same(tmp_path: Path) -> None:
    net, batch = recalled(tmp_path / "c", Counting()), some(Rows(), 0, 1, 2)
    columns = {f"teacher.{name}": column for name, column in net(batch, WANT).items()}
    stored = Player("teacher", cached(), answer=lambda b, want: {w: b[f"teacher.{w}"] for w in want})
    for a, b in zip(stored(batch.with_(**columns), *WANT), player(net)(batch, *WANT), strict=True):
        assert torch.equal(a, b)


# -- whose they are ---------------------------------------------------------------------------------------------------


def test_another_teacher_of_the_same_kind_is_refused(tmp_path: Path) -> None:
    recalled(tmp_path / "c", Counting(0))
    with pytest.raises(Mismatch, match=r"c holds targets of another teacher: net \(\w+\) there, net \(\w+\) here"):
        recalled(tmp_path / "c", Counting(1))


def test_one_weight_makes_another_teacher() -> None:
    net = Counting()
    before = weights_hash(net)
    assert before == weights_hash(Counting())
    with torch.no_grad():
        next(net.parameters())[0, 0] += 1e-6
    assert weights_hash(net) != before


def test_a_student_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    net = recalled(tmp_path / "c", open_player(TEACHER))
    net.check(open_player(STUDENT))
    other = CausalLM(tiny_llama(400, 0, width=16, layers=1), tiny.byte_tokenizer())
    with pytest.raises(Mismatch, match=r"holds targets for the tokenizer \w+, the student has \w+; take a student"):
        net.check(other)


def test_a_kind_of_targets_that_is_not_known_is_refused(tmp_path: Path) -> None:
    recalled(tmp_path / "c", Counting())
    said = (tmp_path / "c" / "cache.json").read_text()
    (tmp_path / "c" / "cache.json").write_text(said.replace("likeliest", "likeliestt"))
    with pytest.raises(UnknownName, match=r"unknown kind of targets 'likeliestt' in .*c; did you mean 'likeliest'\?"):
        open_player(f"cache:{tmp_path / 'c'}")


def test_what_has_no_tokens_is_refused() -> None:
    with pytest.raises(BadValue, match=r"\./net is no causal language model \(Linear\)"):
        about_teacher(nn.Linear(2, 2), "./net")


def test_teachers_that_are_formulas_are_remembered_too(tmp_path: Path) -> None:
    net = recalled(tmp_path / "c", oracle(0), likeliest(k=6), step=1 / 1024)
    batch = Batch({"tokens": torch.tensor([[0, 3, 5, 1]]), "mask": torch.tensor([[False, True, True, True]])})
    ids, logp = player(net)(batch, "ids", "logp")
    truth = oracle(0)(batch, frozenset({"logits"}))["logits"]
    assert ids[0, 1:].tolist() == [[*range(6)]] * 3
    torch.testing.assert_close(logp[0, 1:], truth[0, :-1], atol=2e-3, rtol=0)
    with pytest.raises(Mismatch, match="another teacher"):
        recalled(tmp_path / "c", oracle(1), likeliest(k=6), step=1 / 1024)


# -- everything else --------------------------------------------------------------------------------------------------


def test_all_else_is_asked_of_the_teacher_behind_it(tmp_path: Path) -> None:
    plain, net = open_player(TEACHER), open_player(f"cache:{tmp_path / 'c'}:{TEACHER}")
    tokens = torch.tensor([[1, 5, 6]])
    assert torch.equal(
        net({"tokens": tokens}, frozenset({"logits"}))["logits"], plain({"tokens": tokens}, {"logits"})["logits"]
    )
    assert (net.eos, net.pad, net.context, net.path) == (plain.eos, plain.pad, plain.context, plain.path)
    said = [sample(player(n), tokens, torch.tensor([3]), batch_rng(), max_new_tokens=4)[0] for n in (net, plain)]
    assert torch.equal(*said)
    student = open_player("from-teacher:layers=1", teacher=net)
    assert isinstance(student, CausalLM) and not only_remembers(net)


def batch_rng() -> Any:
    return Batch({"x": torch.zeros(1)}).rng


def test_what_was_said_once_does_not_learn(tmp_path: Path) -> None:
    net = recalled(tmp_path / "c", Counting())
    assert not net.training and not net.teacher.training  # type: ignore[union-attr]
    with pytest.raises(BadValue, match="c is what a teacher said once, and cannot learn; give the model itself"):
        Player("student", frozen(), net).turn("x", True)


def test_a_cache_alone_says_that_it_has_nothing_else(tmp_path: Path) -> None:
    recalled(tmp_path / "c", Counting())
    alone = open_player(f"cache:{tmp_path / 'c'}")
    assert only_remembers(alone) and not list(alone.parameters())
    with pytest.raises(
        UnknownName, match=r"unknown answer 'head' in .*c, a cache without its teacher; .* ids, logp, tail"
    ):
        player(alone)(some(Rows(), 0), "head")
    with pytest.raises(AttributeError):
        _ = alone.eos


# -- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "targets", "step"),
    [
        ("", {"kind": "likeliest", "k": 64}, 1 / 16),
        ("k=8:", {"kind": "likeliest", "k": 8}, 1 / 16),
        ("p=0.9:", {"kind": "nucleus", "p": 0.9, "k": 100}, 1 / 16),
        ("p=0.9,k=8:", {"kind": "nucleus", "p": 0.9, "k": 8}, 1 / 16),
        ("draws=20:", {"kind": "drawn", "draws": 20, "alpha": 1.0}, 1 / 16),
        ("draws=20,alpha=0.5:", {"kind": "drawn", "draws": 20, "alpha": 0.5}, 1 / 16),
        ("step=0.25:", {"kind": "likeliest", "k": 64}, 0.25),
        ("k=8,step=0.25:", {"kind": "likeliest", "k": 8}, 0.25),
    ],
)
def test_a_source_says_what_is_kept(tmp_path: Path, settings: str, targets: dict[str, Any], step: float) -> None:
    def net(spec: str) -> nn.Module:
        assert spec == "bed:x"
        return Counting()

    made = open_recalled(f"cache:{settings}{tmp_path / 'c'}:bed:x", net)
    assert made.cache.about.targets == targets and made.cache.about.step == step
    again = open_recalled(f"cache:{tmp_path / 'c'}:bed:x", net)  # what is there decides
    assert again.targets == made.targets and again.cache.about == made.cache.about
    assert open_recalled(f"cache:{tmp_path / 'c'}", net).cache.about == made.cache.about


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cache:", "names no cache of targets; possible: cache:DIR, cache:DIR:TEACHER"),
        ("cache:k=8:c", "names no cache of targets"),
        ("cache:kk=8:c:x", "no sparse targets have the settings 'kk=8'; possible: k; p, k; draws, alpha; and step"),
        ("cache:draws=8,k=2:c:x", "no sparse targets have the settings"),
        ("cache:k=many:c:x", "k must be a number, got 'many'"),
        ("cache:k=2,step=:c:x", "step must be a number"),
        ("cache:step=9:c:x", "step must be between"),
    ],
)
def test_a_source_that_means_nothing_is_refused(tmp_path: Path, spec: str, says: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadValue, match=says):
        open_recalled(spec, lambda _: Counting())
    assert not [*tmp_path.iterdir()]


# -- filling by a stage -----------------------------------------------------------------------------------------------


def capturing(chunk: int) -> Recipe:
    stages = (Make("capture", rows=captured(), into="rows", chunk=chunk),)
    return Recipe(key="capture", players={"teacher": frozen()}, stages=stages, product="rows", **FACTS)


def fill(path: Path, run: Path, net: nn.Module, chunk: int = 8, targets: Any = None) -> Recalled:
    made = recalled(path, net, targets)
    with Run(run, {"key": "capture"}, resume=True) as running:
        Loop(capturing(chunk), {"teacher": made}, {"train": Rows()}, Options(), running).execute()
    return made


@pytest.mark.parametrize("targets", [likeliest(k=5), drawn(draws=20)], ids=["likeliest", "drawn"])
def test_a_stage_that_is_killed_ends_with_the_same_bytes_and_asks_nothing_twice(tmp_path: Path, targets: Any) -> None:
    whole = fill(tmp_path / "whole", tmp_path / "run", Counting(), targets=targets)
    assert whole.teacher.asked == 44  # type: ignore[union-attr]  # five rows repeat others, one has no target
    for dies_at in (1, 20, 17):
        killed = in_child(
            lambda n=dies_at: fill(tmp_path / "cut", tmp_path / "run2", Counting(dies_at=n), targets=targets)
        )
        assert killed == -signal.SIGKILL
    known = len(TargetCache(tmp_path / "cut")) if (tmp_path / "cut" / "000000.rows").exists() else 0
    rest = fill(tmp_path / "cut", tmp_path / "run2", Counting(), targets=targets)
    assert 16 <= known < 44 and rest.teacher.asked == 44 - known  # type: ignore[union-attr]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


# -- from the command line --------------------------------------------------------------------------------------------

CAPTURE = """
from limbeck.parts.sparse import captured
from limbeck.recipe import Make, Recipe
from limbeck.roles import frozen

recipe = Recipe(
    key="capture", title="Capture", paper="", family="mine", kind="method", learns="nothing", teacher="white-box",
    players={"teacher": frozen()}, stages=(Make("capture", rows=captured(), into="rows"),), product="rows",
)
"""
LEARN = """
from torch.nn.functional import pad

from limbeck.part import part
from limbeck.parts.optimizer import sgd
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import frozen, learning

@part
def listed(players, batch):
    ids, logp = players.teacher(batch, "ids", "logp")
    log_q = players.student(batch, "logits").log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:])
    loss = -(logp[:, 1:].exp() * log_q).sum(-1)
    return pad(loss, (1, 0))

recipe = Recipe(
    key="learn", title="Learn", paper="", family="mine", kind="method", learns="student", teacher="white-box",
    players={"student": learning(sgd(lr=0.1)), "teacher": frozen()},
    stages=(Learn("distill", (Phase("student", ("student",), listed()),), steps=3, batch_size=8),),
)
"""


@pytest.fixture
def files(tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "capture.py").write_text(CAPTURE)
    (tmp_path / "learn.py").write_text(LEARN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def limbeck_(*args: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["distill", *map(str, args), "--data", "rows.jsonl"])
    return done.exit_code, done.output


def test_the_teacher_is_paid_once_and_students_learn_without_it(files: Path) -> None:
    code, said = limbeck_("--recipe", "capture.py", "--teacher", f"cache:k=18:targets:{TEACHER}", "--out", "a")
    rows, said = len(TargetCache("targets")), " ".join(said.split())
    assert code == 0 and 60 < rows < 81 and f"targets: {rows} rows" in said and "of the mass kept" in said, said
    before = contents(files / "targets")
    ends = []
    for name, teacher in (("b", "cache:targets"), ("c", f"cache:targets:{TEACHER}")):
        code, said = limbeck_("--recipe", "learn.py", "--teacher", teacher, "--student", STUDENT, "--out", name)
        assert code == 0, said
        ends.append((files / name / "student" / "model.safetensors").read_bytes())
    assert ends[0] == ends[1] and contents(files / "targets") == before
    reports = [(files / name / "report.md").read_text() for name in "bc"]
    assert "KL from the teacher" not in reports[0] and "KL from the teacher" in reports[1]
    asked = CliRunner().invoke(app, ["try", "b"], input="12+13=\n\n")
    assert "student:" in asked.output and "teacher:" not in asked.output


def test_a_cache_of_all_tokens_teaches_what_the_teacher_does(files: Path) -> None:
    """Three steps of SGD on the whole distribution, live and from the cache, differ by the rounding of the cache."""
    limbeck_(
        "--recipe",
        "learn.py",
        "--teacher",
        f"cache:k=18,step=0.001:targets:{TEACHER}",
        "--student",
        STUDENT,
        "--out",
        "a",
    )
    live = (files / "learn.py").read_text().replace(
        'ids, logp = players.teacher(batch, "ids", "logp")',
        'logp = players.teacher(batch, "logits").log_softmax(-1).roll(1, 1)\n'
        "    ids = logp.argsort(-1)\n    logp = logp.gather(-1, ids)",
    )  # fmt: skip
    (files / "live.py").write_text(live)
    limbeck_("--recipe", "live.py", "--teacher", TEACHER, "--student", STUDENT, "--out", "b")
    a, b, start = (load_file(p / "model.safetensors") for p in (files / "a/student", files / "b/student", STUDENT))
    for name in a:
        moved = (b[name] - start[name]).norm()
        assert (a[name] - b[name]).norm() <= 0.01 * moved + 1e-6, name


def test_mistakes_end_in_one_line(files: Path) -> None:
    limbeck_("--recipe", "capture.py", "--teacher", f"cache:k=4:targets:{TEACHER}", "--out", "a")
    tiny.write("gpt2", files / "other")
    for wrong, says in (
        (("--teacher", "cache:nothing", "--student", STUDENT), "nothing is no cache of targets"),
        (("--teacher", f"cache:targets:{STUDENT}", "--student", STUDENT), "targets of another teacher"),
        (("--teacher", f"cache:k=5:targets:{TEACHER}", "--student", STUDENT), "targets of another kind of targets"),
        (("--teacher", "cache:targets", "--student", files / "other"), "holds targets for the tokenizer"),
    ):
        code, said = limbeck_("--recipe", "learn.py", *wrong, "--out", "b")
        assert code == 2 and says in said and len(said.strip().splitlines()) == 1, said
        assert not (files / "b").exists()


def test_killed_from_outside_it_resumes_to_the_same_bytes(files: Path) -> None:
    """A real process, killed while it writes, then the same command with --resume."""

    def told(name: str) -> list[str]:
        source = ["--recipe", "capture.py", "--teacher", f"cache:k=4:{name}:{TEACHER}", "--set", "capture.chunk=1"]
        return [*source, "--out", f"run-{name}", "--resume"]

    assert limbeck_(*told("whole"))[0] == 0
    started = subprocess.Popen(
        [sys.executable, "-m", "limbeck", "distill", *told("cut"), "--data", "rows.jsonl"], stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    rows, deadline = files / "cut" / "000000.rows", time.monotonic() + 120
    while not (rows.exists() and rows.stat().st_size > 12_000) and time.monotonic() < deadline:
        assert started.poll() is None
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    shutil.copytree(files / "cut", files / "copy")
    assert 0 < len(TargetCache(files / "copy")) < len(TargetCache(files / "whole"))
    assert limbeck_(*told("cut"))[0] == 0
    whole, cut = contents(files / "whole"), contents(files / "cut")
    left = cut.keys() - whole.keys()  # a file that was about to take the place of another, and is read by nobody
    assert all(name.startswith(".cache.json.") for name in left)
    assert {name: cut[name] for name in whole} == whole


def test_rows_read_by_the_teacher_are_rows_read_by_the_student(words: Path, tmp_path: Path) -> None:
    net = open_player(f"cache:{tmp_path / 'c'}:{TEACHER}")
    mine, theirs = (read_for(n, open_data(words)).take(torch.arange(5)) for n in (net, open_player(STUDENT)))
    assert torch.equal(mine["tokens"], theirs["tokens"]) and torch.equal(mine["mask"], theirs["mask"])
