"""Remote black boxes against a small server on this machine that stumbles, refuses, cuts and counts."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.adapters.remote import Completions, Server
from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.errors import BadData, BadValue, TeacherUnavailable
from limbeck.index import load
from limbeck.loop import Loop
from limbeck.override import override

WORDS = ("good", "bad", "rare")
WANT = frozenset({"mask_probs"})


class Fake(ThreadingHTTPServer):
    """Answers completions; `script` says how the next requests go: "ok", a status, "cut" or "late"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Any] = []
        self.prompts: list[str] = []
        self.times: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Fake

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        how = self.server.script.pop(0) if self.server.script else "ok"
        self.server.times.append(time.monotonic())
        if how == "late":
            time.sleep(0.5)
        good = 0.75 if "fine" in body["prompt"] else 0.125
        top = {" good": math.log(good), "bad ": math.log(0.875 - good), "good": math.log(0.0625)}
        said = {"choices": [{"text": " good", "logprobs": {"top_logprobs": [top]} if body["model"] == "m" else None}]}
        content = json.dumps(said).encode()
        self.send_response(how if isinstance(how, int) else 200)
        self.send_header("content-length", str(len(content)))
        if how == 429:
            self.send_header("retry-after", "0.3")
        self.end_headers()
        if how == "ok":
            self.server.prompts.append(body["prompt"])
        self.wfile.write(content[:20] if how == "cut" else content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def fake() -> Iterator[Fake]:
    with Fake() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def box(fake: Fake, journal: Path | None = None, **how: Any) -> Completions:
    options = {"wait": 0.01, "timeout": 5.0, "attempts": 3, **how}
    return Completions(Server(fake.url, **options), "m", WORDS, journal=journal)


def asked(teacher: Completions, *texts: str) -> torch.Tensor:
    return teacher(Batch({"text": list(texts)}), WANT)["mask_probs"]


def test_tokens_count_for_the_words_that_they_are(fake: Fake) -> None:
    """ " good" and "good" are one word; a word that the server does not name has probability 0."""
    p = asked(box(fake), "fine: <gap>", "awful: <gap>")
    torch.testing.assert_close(p, torch.tensor([[0.8125, 0.125, 0.0], [0.1875, 0.75, 0.0]]))
    assert fake.prompts == ["fine:", "awful:"]


@pytest.mark.parametrize("trouble", [500, 503, 429, "cut"])
def test_a_server_that_stumbles_is_asked_again(fake: Fake, trouble: Any) -> None:
    fake.script = [trouble, trouble, "ok"]
    teacher = box(fake)
    assert asked(teacher, "x <gap>").shape == (1, 3) and teacher.asked == 1
    assert fake.times[1] - fake.times[0] >= (0.3 if trouble == 429 else 0.01)  # as long as the server asks for


def test_a_server_that_is_late_is_asked_again(fake: Fake) -> None:
    fake.script = ["late", "ok"]
    asked(box(fake, timeout=0.2), "x <gap>")
    assert len(fake.times) == 2


def test_a_server_that_stays_away_is_given_up(fake: Fake) -> None:
    fake.script = [502] * 3
    with pytest.raises(TeacherUnavailable, match=r"3 attempts \(status 502"):
        asked(box(fake), "x <gap>")
    fake.server_close()
    with pytest.raises(TeacherUnavailable, match="--resume"):
        asked(Completions(Server("http://127.0.0.1:1/v1", attempts=2, wait=0.01), "m", WORDS), "x <gap>")


def test_a_refusal_is_not_repeated(fake: Fake) -> None:
    fake.script = [401]
    with pytest.raises(BadValue, match="refuses the request with status 401"):
        asked(box(fake), "x <gap>")
    assert len(fake.times) == 1
    with pytest.raises(BadValue, match="no log-probabilities"):
        asked(Completions(Server(fake.url), "silent", WORDS), "x <gap>")


def test_the_rate_is_kept(fake: Fake) -> None:
    asked(box(fake, per_second=20.0), "a <gap>", "b <gap>", "c <gap>")
    assert fake.times[2] - fake.times[0] >= 0.1 - 0.01


def test_no_kept_answer_is_asked_again(fake: Fake, tmp_path: Path) -> None:
    """Answers are in the file before they are used; a line that a crash cut short is asked again, and only that."""
    file = tmp_path / "run" / "answers.jsonl"
    fake.script = ["ok", "ok", 401]
    with pytest.raises(BadValue):
        asked(box(fake, file), "a <gap>", "b <gap>", "c <gap>")
    again = box(fake, file)
    asked(again, "a <gap>", "b <gap>", "c <gap>")
    assert again.asked == 1 and fake.prompts == ["a", "b", "c"]
    file.write_bytes(file.read_bytes()[:-7])
    torn = box(fake, file)
    first = asked(torn, "a <gap>", "b <gap>", "c <gap>")
    assert torn.asked == 1 and fake.prompts == ["a", "b", "c", "c"]
    whole = box(fake, file)
    assert torch.equal(asked(whole, "a <gap>", "b <gap>", "c <gap>"), first) and whole.asked == 0


def test_a_gap_elsewhere_is_refused(fake: Fake) -> None:
    for text in ("<gap> first", "none", "<gap> two <gap>"):
        with pytest.raises(BadData, match=r"end the prompt in \{mask\}"):
            asked(box(fake), text)


def test_prompts_are_boosted_on_a_server(fake: Fake) -> None:
    """The same recipe on a remote teacher: a query for each prompt and row, and the words that tell the classes."""
    kinds = ("awful", "fine")
    rows = {s: Table({"text": [f"{s} {i} {kinds[i % 2]}" for i in range(n)], "y": torch.arange(n) % 2})
            for s, n in {"train": 8, "valid": 4}.items()}  # fmt: skip
    prompts = ("{text} It was {mask}", "{text}: {mask}")
    changes = {"student.builder.prompts": prompts, "student.builder.learners": 4, "boost.steps": 4, "boost.step.top": 2}
    ended = Loop(override(load("promptboosting"), changes), {"teacher": box(fake)}, dict(rows)).execute()
    assert ended.teacher.asked == len(prompts) * 12 == len(set(fake.prompts))
    fresh = Batch({"text": ["all is fine", "it is awful"]})
    assert ended.student(fresh, "logits").argmax(-1).tolist() == [1, 0]
