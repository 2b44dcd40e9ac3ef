"""A teacher behind a server, from the command line: answers, a student that reloads, faults, and being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner, Result

from limbeck.commands import app
from limbeck.evaluate import Examination
from limbeck.run import Journal
from limbeck.side_by_side import side_by_side
from tests.adapters import tiny
from tests.adapters.fake import MODEL, Fake, answer, question, running

KEY = "sk-of-nobody"
ROWS = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two students, with a chat template and without, and prompts."""
    root = tmp_path_factory.mktemp("place")
    tiny.write("gpt2", root / "plain", 1)
    tiny.write("qwen2", root / "chat", 1)
    prompts = [{"prompt": f"how much is {i} plus {i % 7} ?"} for i in range(ROWS)]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return root


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("LIMBECK_API_KEY", KEY)
    with running() as server:
        server.reply = lambda body: answer(body, " it is 42")
        yield server


def arguments(place: Path, out: Path, url: str, *more: str, key: str = "seqkd", student: str = "plain") -> list[str]:
    given = {"teacher": f"{url}#{MODEL}", "student": place / student, "data": place / "prompts.jsonl", "out": out}
    options = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    return ["distill", key, *options, "--steps", "6", "--batch-size", "4", "--set", "ask.rows.max_new_tokens=8", *more]


def distill(*args: Any, **how: Any) -> Result:
    return CliRunner().invoke(app, arguments(*args, **how))


def run_json(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())  # type: ignore[no-any-return]


def test_seqkd_from_end_to_end(place: Path, tmp_path: Path, fake: Fake) -> None:
    """The commonest job there is: chats with a hosted model, a student for bare transformers, a report."""
    done = distill(place, tmp_path / "run", fake.url, "--set", "student.optimizer.lr=1e-2", student="chat")
    assert done.exit_code == 0, done.stderr
    out = tmp_path / "run"
    # every row was asked once, in its own words: those to learn from with a seed, those held out greedily
    asked = {question(body): body for body in fake.asked}
    assert len(fake.asked) == len(asked) == ROWS and set(fake.paths) == {"/v1/chat/completions"}
    held_out = Examination.load(out).inputs
    assert sum(body["temperature"] == 0 for body in asked.values()) == len(held_out) > 0
    made = Journal(out / "journal" / "ask").read(0)
    assert made is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "chat")
    for i, tokens in enumerate(made["tokens"]):
        user = json.loads(made["request"][i])["messages"]
        conversation = [*user, {"role": "assistant", "content": "it is 42"}]
        expected = tokenizer.apply_chat_template(conversation, tokenize=False).removesuffix("\n")
        assert tokenizer.decode(tokens[: made["length"][i]]) == expected
        assert tokenizer.decode(tokens[made["mask"][i]]) == "it is 42<|im_end|>"
    # the student reloads without limbeck, and has come nearer to what the teacher says
    model = {p: transformers.AutoModelForCausalLM.from_pretrained(p) for p in (place / "chat", out / "student")}
    ids, mask = made["tokens"][:1, : made["length"][0]], made["mask"][0, 1 : made["length"][0]]
    with torch.no_grad():
        logp = {p: m(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[mask] for p, m in model.items()}
    assert logp[out / "student"].mean() > logp[place / "chat"].mean() + 0.1
    # what it cost is told, the key to nobody
    counted = {"answers": ROWS, "prompt tokens": 7 * ROWS, "answer tokens": 3 * ROWS, "empty": 0, "cut off": 0}
    assert run_json(out)["asked"] == {"teacher": counted} and set(fake.keys) == {f"Bearer {KEY}"}
    report = (out / "report.md").read_text()
    assert f"| teacher.prompt tokens | {7 * ROWS} |" in report and "the teacher is behind a server" in report
    assert not [p for p in out.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    hint, ask = side_by_side(out)
    assert hint == "a prompt" and ask("and the cat ?")["teacher"] == "it is 42"


@pytest.mark.slow
def test_killed_in_the_middle_only_what_was_in_flight_is_asked_again(place: Path, tmp_path: Path, fake: Fake) -> None:
    ready = threading.Event()
    child: list[subprocess.Popen[bytes]] = []

    def deadly(body: dict[str, Any]) -> Any:
        ready.wait()
        time.sleep(0.02)
        if len(fake.done) >= 15:
            os.kill(child[0].pid, signal.SIGKILL)
        return answer(body, f" it is {question(body)[12:14]}")

    fake.reply = deadly
    args = [sys.executable, "-m", "limbeck", *arguments(place, tmp_path / "cut", fake.url)]
    child.append(subprocess.Popen(args, stderr=subprocess.DEVNULL))
    ready.set()
    assert child[0].wait(60) == -signal.SIGKILL
    kept = (tmp_path / "cut" / "journal" / "teacher.0.jsonl").read_bytes().count(b"\n")
    before = len(fake.asked)
    assert 15 - 8 <= kept <= before < ROWS - 8 and not list((tmp_path / "cut" / "journal").glob("ask/*"))
    fake.reply = lambda body: answer(body, f" it is {question(body)[12:14]}")
    assert distill(place, tmp_path / "cut", fake.url, "--resume").exit_code == 0
    times = Counter(map(question, fake.asked))
    assert len(times) == ROWS and sum(times.values()) == ROWS + before - kept
    assert max(times.values()) == 2 and 1 <= list(times.values()).count(2) <= 8
    # and it ends as if nothing had happened
    assert distill(place, tmp_path / "whole", fake.url).exit_code == 0
    cut, whole = ((tmp_path / name / "student" / "model.safetensors").read_bytes() for name in ("cut", "whole"))
    assert cut == whole


def test_a_server_that_dies_leaves_a_run_that_goes_on(
    place: Path, tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic)
    monkeypatch.setattr("limbeck.adapters.server.time", hasty)
    fake.script = ["ok"] * 10 + [500] * 200
    died = distill(place, tmp_path / "run", fake.url)
    assert died.exit_code == 1 and "start it, then continue with --resume" in died.stderr.splitlines()[-1]
    assert run_json(tmp_path / "run")["status"] == "failed"
    assert run_json(tmp_path / "run")["asked"]["teacher"]["answers"] == 10
    fake.script = []
    assert distill(place, tmp_path / "run", fake.url, "--resume").exit_code == 0
    assert len(fake.done) == ROWS and run_json(tmp_path / "run")["asked"]["teacher"]["answers"] == ROWS


def test_a_dry_run_asks_for_one_chunk_and_writes_nothing(place: Path, tmp_path: Path, fake: Fake) -> None:
    done = distill(place, tmp_path / "run", fake.url, "--dry-run", "--set", "ask.chunk=4")
    assert done.exit_code == 0 and len(fake.asked) == 4 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "kd"}, "kd needs a white-box teacher, and {url} answers with text only; recipes for it (limbeck ls "
                        "--teacher black-box): embedding-mse, seqkd, promptboosting"),
        ({"key": "gkd"}, "gkd needs a white-box teacher"),
        ({"more": ("--student", "{url}")}, "the student learns, so it must be a model on this machine, not {url}"),
        ({"more": ("--student", "from-teacher:layers=1")}, "the teacher is a Remote"),
        ({"more": ("--teacher", "http://me:pw@127.0.0.1/v1#m")}, "holds a user, a password or a query"),
        ({"more": ("--teacher", "{url}x")}, "did you mean 'org/m-7b'? possible: org/m-7b, other"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(
    change: dict[str, Any], said: str, place: Path, tmp_path: Path, fake: Fake
) -> None:
    url = f"{fake.url}#{MODEL}"
    more = [word.format(url=url) for word in change.pop("more", ())]
    args = arguments(place, tmp_path / "run", fake.url, *more, **change)
    if "key" in change:
        args = args[: args.index("--set")]  # which is of seqkd
    done = CliRunner().invoke(app, args)
    last = done.stderr.strip().splitlines()[-1]
    assert done.exit_code == 2 and said.format(url=url) in last and last.startswith("limbeck: ")
    assert not list(tmp_path.rglob("metrics.jsonl")) or "org/m-7b" in said
    assert "pw" not in done.stderr
