"""Black boxes that fill gaps, against a small server on this machine that stumbles, refuses, cuts and counts."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.adapters.remote import Remote, open_remote
from limbeck.adapters.server import Server, each
from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.errors import BadData, BadValue, TeacherUnavailable, UnknownName
from limbeck.index import load
from limbeck.loop import Loop
from limbeck.override import override
from tests.adapters.fake import MODEL, Fake, running

WORDS = ("good", "bad", "rare")
WANT = frozenset({"mask_probs"})


def likeliest(body: dict[str, Any]) -> Any:
    good = 0.75 if "fine" in body["prompt"] else 0.125
    top = {" good": math.log(good), "bad ": math.log(0.875 - good), "good": math.log(0.0625)}
    return {"choices": [{"text": " good", "logprobs": {"top_logprobs": [top]} if body["model"] == MODEL else None}]}


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as server:
        server.reply = likeliest
        yield server


def box(fake: Fake, journal: Path | None = None, **how: Any) -> Remote:
    options = {"wait": 0.01, "timeout": 5.0, "attempts": 3, **how}
    return Remote(Server(fake.url, **options), MODEL, WORDS, journal=journal)


def asked(teacher: Remote, *texts: str) -> torch.Tensor:
    return teacher(Batch({"text": list(texts)}), WANT)["mask_probs"]


def prompts(fake: Fake) -> list[str]:
    return sorted(body["prompt"] for body in fake.done)


def test_tokens_count_for_the_words_that_they_are(fake: Fake) -> None:
    """ " good" and "good" are one word; a word that the server does not name has probability 0."""
    p = asked(box(fake), "fine: <gap>", "awful: <gap>")
    torch.testing.assert_close(p, torch.tensor([[0.8125, 0.125, 0.0], [0.1875, 0.75, 0.0]]))
    assert prompts(fake) == ["awful:", "fine:"] and set(fake.paths) == {"/v1/completions"}


@pytest.mark.parametrize("trouble", [500, 503, 429, "cut", {"choices": []}, {"error": "busy"}])
def test_a_server_that_stumbles_is_asked_again(fake: Fake, trouble: Any) -> None:
    fake.script = [trouble, trouble, "ok"]
    teacher = box(fake)
    assert asked(teacher, "x <gap>").shape == (1, 3) and teacher.asked == 1
    assert fake.times[1] - fake.times[0] >= (0.3 if trouble in (429, 503) else 0.01)  # as long as the server asks for


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
        asked(Remote(Server("http://127.0.0.1:1/v1", attempts=2, wait=0.01), "m", WORDS), "x <gap>")


def test_a_server_that_asks_for_more_patience_than_anyone_has_is_given_up(fake: Fake) -> None:
    fake.script, fake.retry_after = [429], "86400"
    with pytest.raises(TeacherUnavailable, match="asks to wait 86400 s; continue then, with --resume"):
        asked(box(fake), "x <gap>")
    assert len(fake.times) == 1


def test_a_refusal_is_not_repeated(fake: Fake) -> None:
    fake.script = [401]
    with pytest.raises(BadValue, match=r"row 0: .* refuses the request with status 401.*LIMBECK_API_KEY"):
        asked(box(fake), "x <gap>")
    assert len(fake.times) == 1
    with pytest.raises(BadValue, match="no log-probabilities"):
        asked(Remote(Server(fake.url), "silent", WORDS), "x <gap>")


def test_a_model_that_the_server_does_not_know_is_told_apart(fake: Fake) -> None:
    with pytest.raises(UnknownName, match=rf"unknown model 'm-7b' in {fake.url}; did you mean '{MODEL}'.*other"):
        asked(Remote(Server(fake.url), "m-7b", WORDS), "x <gap>")
    fake.script = [404]  # the model is known: something else is missing
    with pytest.raises(BadValue, match="v1/completions refuses the request with status 404"):
        asked(box(fake), "x <gap>")


def test_a_key_is_sent_and_never_shown(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the server repeats it in its refusal."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("LIMBECK_API_KEY", "sk-secret\n")
    for key in ("sk-secret", "sk-other"):
        teacher = open_remote(f"{fake.url}#{MODEL}")
        fake.script = [403]
        with pytest.raises(BadValue, match=r"no: Bearer \*\*\*; the key is taken from") as refused:
            teacher.server.ask("completions", {"model": MODEL, "prompt": "x"}, dict)
        assert fake.keys[-1] == f"Bearer {key}" and key not in str(refused.value)
        monkeypatch.delenv("LIMBECK_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u00e4")
    with pytest.raises(BadValue, match="signs that no key has"):
        open_remote(f"{fake.url}#{MODEL}")
    monkeypatch.delenv("OPENAI_API_KEY")
    asked(box(fake), "x <gap>")
    assert fake.keys[-1] is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("http://127.0.0.1:8000/v1", "names no model"),
        ("http://#m", "names no host"),
        ("http://me:pass@127.0.0.1/v1#m", "server on 127.0.0.1 holds a user, a password or a query"),
        ("https://api.example/v1?key=pass#m", "holds a user, a password or a query"),
        ("http://me:pass@127.0.0.1:99999/v1#m", "cannot be read"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(spec: str, said: str) -> None:
    with pytest.raises(BadValue, match=said) as refused:
        open_remote(spec)
    assert "pass@" not in str(refused.value) and "=pass" not in str(refused.value)


def test_the_rate_is_kept(fake: Fake) -> None:
    start = time.monotonic()
    asked(box(fake, per_second=20.0), "a <gap>", "b <gap>", "c <gap>")
    assert max(fake.times) - start >= 0.1 - 1e-3  # the third leaves two pauses after the first, however busy we are


def test_no_kept_answer_is_asked_again(fake: Fake, tmp_path: Path) -> None:
    """Answers are in the file before they are used; a line that a crash cut short is asked again, and only that."""
    file = tmp_path / "run" / "answers.jsonl"
    fake.script = ["ok", "ok", 401]
    with pytest.raises(BadValue):
        asked(box(fake, file, at_once=1), "a <gap>", "b <gap>", "c <gap>")
    again = box(fake, file)
    asked(again, "a <gap>", "b <gap>", "c <gap>")
    assert again.asked == 1 and prompts(fake) == ["a", "b", "c"]
    file.write_bytes(file.read_bytes()[:-7])
    torn = box(fake, file)
    first = asked(torn, "a <gap>", "b <gap>", "c <gap>")
    assert torn.asked == 1 and prompts(fake) == ["a", "b", "c", "c"]
    whole = box(fake, file)
    assert torch.equal(asked(whole, "a <gap>", "b <gap>", "c <gap>"), first) and whole.asked == 0


def test_a_gap_elsewhere_is_refused(fake: Fake) -> None:
    for text in ("<gap> first", "none", "<gap> two <gap>"):
        with pytest.raises(BadData, match=r"end the prompt in \{mask\}"):
            asked(box(fake), text)


def test_what_only_the_model_itself_could_answer_is_refused(fake: Fake) -> None:
    with pytest.raises(BadValue, match="answers with text, not with 'logits'"):
        box(fake)(Batch({"text": ["x"]}), frozenset({"logits"}))
    with pytest.raises(BadValue, match="words that it is given"):
        asked(Remote(Server(fake.url), MODEL), "x <gap>")


def test_a_copy_is_the_box_itself_and_costs_nothing_twice(fake: Fake) -> None:
    teacher = box(fake)
    twin = copy.deepcopy(teacher)
    assert torch.equal(asked(teacher, "x <gap>"), asked(twin, "x <gap>")) and len(fake.asked) == 1


def test_after_a_failure_nothing_more_is_begun() -> None:
    begun: list[int] = []

    def work(n: int) -> None:
        begun.append(n)
        if n == 3:
            raise BadValue("three")

    with pytest.raises(BadValue, match="three"):
        each(work, range(100), 1)
    assert begun == [0, 1, 2, 3]


def test_prompts_are_boosted_on_a_server(fake: Fake) -> None:
    """The same recipe on a remote teacher: a query for each prompt and row, and the words that tell the classes."""
    kinds = ("awful", "fine")
    rows = {s: Table({"text": [f"{s} {i} {kinds[i % 2]}" for i in range(n)], "y": torch.arange(n) % 2})
            for s, n in {"train": 8, "valid": 4}.items()}  # fmt: skip
    prompts = ("{text} It was {mask}", "{text}: {mask}")
    changes = {"student.builder.prompts": prompts, "student.builder.learners": 4, "boost.steps": 4, "boost.step.top": 2}
    ended = Loop(override(load("promptboosting"), changes), {"teacher": box(fake)}, dict(rows)).execute()
    assert ended.teacher.asked == len(prompts) * 12 == len({body["prompt"] for body in fake.done})
    fresh = Batch({"text": ["all is fine", "it is awful"]})
    assert ended.student(fresh, "logits").argmax(-1).tolist() == [1, 0]
