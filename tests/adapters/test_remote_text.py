"""Models behind a server that answer text: rows as if the answers had come with the data, whatever happens between."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.adapters.chat import chats, read_row, request_of, tokenise, written
from limbeck.adapters.data import Records
from limbeck.adapters.remote import Remote, spent
from limbeck.adapters.server import Server
from limbeck.adapters.source import open_player
from limbeck.batch import Batch
from limbeck.data import Source, batch_of
from limbeck.errors import BadData, BadValue, BrokenRecipe, TeacherUnavailable
from limbeck.loop import Loop
from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import answers, requested
from limbeck.players import Player, Players
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.recipes.baselines.sft import imitate
from limbeck.rng import Rng
from limbeck.roles import frozen, learning
from tests.adapters import tiny
from tests.adapters.fake import MODEL, Fake, answer, question, running
from tests.adapters.test_chat import TALK

PLAIN, CHAT = tiny.byte_tokenizer(), tiny.byte_tokenizer(tiny.CHATML)
# a template as reasoning models have it: it asks for thoughts, and drops them from what was said
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
# one that writes empty thoughts before an answer
EMPTY = tiny.CHATML.replace("{{ m['content'] }}", "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m['content'] | trim }}")  # fmt: skip  # noqa: E501


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as server:
        yield server


def speaker(fake: Fake, tokenizer: Any, journal: Path | None = None, context: int = 64, **how: Any) -> Player:
    net = Remote(Server(fake.url, **{"wait": 0.01, "attempts": 3, **how}), MODEL, journal=journal)
    net.listen(SimpleNamespace(tokenizer=tokenizer, context=context))
    return Player("teacher", frozen(), net)


def rows(tokenizer: Any, *rows: dict[str, Any]) -> Source:
    return chats(Records(datasets.Dataset.from_list(list(rows)), "rows"), tokenizer, requests=True)


def batch_of_all(source: Source) -> Batch:
    at = torch.arange(len(source))
    return Batch({**source.take(at), "index": at}, Rng(("seed", 0), at))


def ask(player: Player, batch: Batch, **how: Any) -> Batch:
    part = rollout(**{"max_new_tokens": 16, **how}).on(student="teacher")
    return part(Players({"teacher": player}), batch)  # type: ignore[no-any-return]


def whole(batch: Batch) -> list[list[int]]:
    return [t[:n] for t, n in zip(batch.tokens.tolist(), batch.length.tolist(), strict=True)]


def targets(batch: Batch) -> list[list[int]]:
    return [t[m].tolist() for t, m in zip(batch.tokens, batch.mask, strict=True)]


# -- what a row becomes -----------------------------------------------------------------------------------------------


@given(st.text(min_size=1).filter(str.strip), st.sampled_from([{"prompt": "the cat"}, {"prompt": TALK[:2]}]))
@settings(max_examples=60, deadline=None)
def test_an_answer_is_written_as_if_it_had_come_with_the_data(text: str, row: dict[str, Any]) -> None:
    """Against the reader of data, whose masks other tests hold against the marks of transformers."""
    chat = isinstance(row["prompt"], list)
    tokenizer, said = (CHAT, text.strip()) if chat else (PLAIN, text)
    target = {"completion": [{"role": "assistant", "content": said}] if chat else said}
    ids, mask, _ = tokenise(tokenizer, read_row({**row, **target}, chat))
    request = {"messages": row["prompt"]} if chat else row
    found = written(tokenizer, request, text, ended=True)
    assert found == [t for t, m in zip(ids, mask, strict=True) if m]


def test_a_row_without_a_template_is_completed(fake: Fake) -> None:
    fake.reply = lambda body: answer(body, " sat on the mat", "stop" if "cat" in body["prompt"] else "length")
    said = ask(speaker(fake, PLAIN), batch_of_all(rows(PLAIN, {"prompt": "the cat"}, {"prompt": "the dog"})))
    for row, prompt, end in zip(range(2), ("the cat", "the dog"), ([PLAIN.eos_token_id], []), strict=True):
        assert targets(said)[row] == [*PLAIN(" sat on the mat")["input_ids"], *end]  # cut off: no end to learn
        assert whole(said)[row] == PLAIN(prompt)["input_ids"] + targets(said)[row]
    assert set(fake.paths) == {"/v1/completions"} and all(body["model"] == MODEL for body in fake.asked)


def test_a_conversation_goes_to_the_chat(fake: Fake) -> None:
    """Up to the first answer of the data, with the tools; the row is what the student's template makes of it all."""
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    fake.reply = lambda body: answer(body, "the cat sat\n", "length" if body.get("tools") else "stop")
    source = rows(CHAT, {"messages": TALK, "tools": None}, {"messages": TALK[1:2], "tools": tools})
    said = ask(speaker(fake, CHAT, context=200), batch_of_all(source))
    asked = sorted(fake.asked, key=lambda body: len(body["messages"]))
    assert [body["messages"] for body in asked] == [TALK[1:2], TALK[:2]] and asked[0]["tools"] == tools
    assert set(fake.paths) == {"/v1/chat/completions"}
    expected = CHAT.apply_chat_template([*TALK[:2], {"role": "assistant", "content": "the cat sat"}])["input_ids"]
    assert whole(said)[0] == expected[:-1]  # but for the newline after the end, which nobody says
    assert CHAT.decode(targets(said)[0]) == "the cat sat<|im_end|>" and CHAT.decode(targets(said)[1]) == "the cat sat"


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        (THINKING, "two and two</think>four", "two and two</think>four<|im_end|>"),
        (THINKING, "four", "four<|im_end|>"),
        (EMPTY, " four ", "<think></think>four<|im_end|>"),
    ],
)
def test_templates_that_rewrite_answers(template: str, text: str, expected: str) -> None:
    tokenizer = tiny.byte_tokenizer(template)
    ids = written(tokenizer, {"messages": TALK[:2]}, text, ended=True)
    assert tokenizer.decode(ids) == expected
    cut = written(tokenizer, {"messages": TALK[:2]}, text, ended=False)
    assert tokenizer.decode(cut) == expected.removesuffix("<|im_end|>")


def test_only_the_last_answer_is_asked_where_the_template_rewrites_the_others() -> None:
    transcript = read_row({"messages": TALK}, True)
    assert '"prompt"' not in request_of(transcript, 9) and request_of(transcript, 9).count("role") == 2
    assert request_of(transcript, 9, rewritten=True).count("role") == 4


def test_settings_and_a_seed_of_the_rows_own_are_sent(fake: Fake) -> None:
    source = rows(PLAIN, *({"prompt": f"the cat {i}"} for i in range(6)))
    both = batch_of_all(source)
    ask(speaker(fake, PLAIN), both, temperature=0.7, top_p=0.9, max_new_tokens=12)
    first = {body["prompt"]: body["seed"] for body in fake.asked}
    assert len(set(first.values())) == 6 and all(0 <= seed < 2**31 for seed in first.values())
    assert {(b["temperature"], b["top_p"], b["max_tokens"]) for b in fake.asked} == {(0.7, 0.9, 12)}
    ask(speaker(fake, PLAIN), both.rows(slice(4, 6)), temperature=0.7)  # the same rows in another batch
    assert all(first[body["prompt"]] == body["seed"] for body in fake.asked)
    ask(speaker(fake, PLAIN), both.rows(slice(0, 1)), temperature=0.0)
    assert "seed" not in fake.asked[-1]


def test_the_order_is_that_of_the_rows_and_only_so_many_are_in_flight(fake: Fake) -> None:
    draw = random.Random(0)

    def late(body: dict[str, Any]) -> Any:
        threading.Event().wait(draw.random() / 50)
        return answer(body, f" {question(body)}")

    fake.reply = late
    names = [f"row {i}" for i in range(40)]
    said = ask(speaker(fake, PLAIN), batch_of_all(rows(PLAIN, *({"prompt": name} for name in names))))
    assert [PLAIN.decode(t[:-1]) for t in targets(said)] == [f" {name}" for name in names]
    assert 1 < fake.most <= 8 and len(fake.asked) == 40
    assert [body["prompt"] for body in fake.done] != names


def test_equal_questions_are_asked_once(fake: Fake) -> None:
    source = rows(PLAIN, *[{"prompt": "the cat"}] * 5)
    said = ask(speaker(fake, PLAIN), batch_of_all(source), temperature=0.0)
    assert len(fake.asked) == 1 and said.size == 5


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [429, 500, 503, "cut", "late", {"choices": []}, {"choices": [{"text": 3}]}, {}])
def test_a_server_that_stumbles_is_asked_again(fake: Fake, trouble: Any) -> None:
    fake.script = [trouble, "ok", "ok"]
    said = ask(speaker(fake, PLAIN, timeout=0.2), batch_of_all(rows(PLAIN, {"prompt": "a"}, {"prompt": "b"})))
    assert [PLAIN.decode(t[:-1]) for t in targets(said)] == [" a!", " b!"] and len(fake.asked) == 3


def test_what_was_answered_before_the_server_died_is_kept(fake: Fake, tmp_path: Path) -> None:
    fake.script = ["ok"] * 5 + [500] * 100
    batch = batch_of_all(rows(PLAIN, *({"prompt": f"row {i}"} for i in range(12))))
    with pytest.raises(TeacherUnavailable, match="start it, then continue with --resume"):
        ask(speaker(fake, PLAIN, tmp_path / "teacher.0.jsonl", at_once=4), batch)
    assert len(fake.asked) < 5 + 4 * 3 + 4 and len(fake.done) == 5
    fake.script = []
    said = ask(speaker(fake, PLAIN, tmp_path / "teacher.0.jsonl"), batch)
    assert said.size == 12 and len(fake.done) == 12
    counted = {"answers": 12, "prompt tokens": 84, "answer tokens": 36, "empty": 0, "cut off": 0}
    assert spent(tmp_path) == {"teacher": counted}


def test_empty_answers_are_left_out_and_counted(fake: Fake, tmp_path: Path) -> None:
    texts = {"a": None, "b": " \n", "c": " sat"}
    fake.reply = lambda body: answer(body, texts[question(body)], "length")
    said = ask(speaker(fake, PLAIN, tmp_path / "t.0.jsonl"), batch_of_all(rows(PLAIN, *({"prompt": p} for p in "abc"))))
    assert said.index.tolist() == [2] and targets(said) == [PLAIN(" sat")["input_ids"]]
    assert spent(tmp_path)["t"]["empty"] == 2 and spent(tmp_path)["t"]["cut off"] == 3


def test_a_refusal_names_the_row(fake: Fake) -> None:
    fake.script = ["ok", "ok", 400]
    batch = batch_of_all(rows(PLAIN, *({"prompt": p} for p in "abcd")))
    with pytest.raises(BadValue, match=r"row 2: .*v1/completions refuses the request with status 400"):
        ask(speaker(fake, PLAIN, at_once=1), batch)


def test_rows_that_ask_nothing_in_text_are_refused(fake: Fake) -> None:
    with pytest.raises(BadData, match="row 0 asks nothing: rows of running text have no prompt"):
        ask(speaker(fake, PLAIN), batch_of_all(rows(PLAIN, {"text": "the cat sat"})))
    bare = batch_of_all(rows(PLAIN, {"prompt": "the cat"}))
    bare = Batch({name: column for name, column in bare.columns.items() if name != "request"}, bare.rng)
    with pytest.raises(BadData, match="is asked in text: give rows of language"):
        ask(speaker(fake, PLAIN), bare)
    assert not fake.asked


def test_a_prompt_that_a_part_has_changed_is_no_question_for_a_server(fake: Fake, tmp_path: Path) -> None:
    """A second turn is written in tokens: a server would be asked the first question again."""
    student = Player("student", frozen(), open_player(tiny.write("gpt2", tmp_path / "student")))
    players = Players({"student": student, "teacher": speaker(fake, PLAIN)})
    twice = rollout(max_new_tokens=4) >> requested(request="sure ?") >> rollout(max_new_tokens=4).on(student="teacher")
    with pytest.raises(BrokenRecipe, match="row 0: the prompt was changed"):
        twice(players, batch_of_all(rows(PLAIN, {"prompt": "the cat"})))


def test_answers_longer_than_the_student_can_read_are_cut(fake: Fake) -> None:
    fake.reply = lambda body: answer(body, " xyz" * 40)
    batch = batch_of_all(rows(PLAIN, {"prompt": "the cat"}))
    with pytest.warns(UserWarning, match="exceed the student's context of 24 tokens are cut"):
        said = ask(speaker(fake, PLAIN, context=24), batch, max_new_tokens=8)
    assert said.length.tolist() == [24] and PLAIN.eos_token_id not in targets(said)[0]
    with pytest.raises(BadData, match="exceed the context of teacher, 24 tokens"):
        ask(speaker(fake, PLAIN, context=24), batch, max_new_tokens=24)


# -- in recipes -------------------------------------------------------------------------------------------------------


def recipe(*stages: Any, **players: Any) -> Recipe:
    facts = dict(title="t", paper="p", family="f", kind="method", learns="student", teacher="black-box")
    return Recipe(key="toy", players={"student": learning(adamw(lr=1e-3)), **players}, stages=stages, **facts)


def test_nothing_but_empty_answers_is_an_error(fake: Fake, tmp_path: Path) -> None:
    fake.reply = lambda body: answer(body, "")
    student = open_player(tiny.write("gpt2", tmp_path / "student"))
    teacher = speaker(fake, PLAIN).module
    asks = Make("ask", rollout(max_new_tokens=4).on(student="teacher"), into="answers", chunk=2)
    data = {"train": rows(PLAIN, *({"prompt": p} for p in "abc"))}
    with pytest.raises(BadData, match="stage ask kept no row of 'train'"):
        Loop(recipe(asks, teacher=frozen()), {"student": student, "teacher": teacher}, data).execute()
    assert len(fake.asked) == 3


def test_a_server_can_be_the_sampler_of_a_learning_stage(fake: Fake, tmp_path: Path) -> None:
    """Each step asks for the answers that it learns; a step that is done again asks for nothing."""
    student = open_player(tiny.write("gpt2", tmp_path / "student"))
    seen: list[Tensor] = []
    phase = Phase("student", ("student",), imitate[0].loss, batch=rollout(max_new_tokens=8).on(student="sampler"))
    stages = Learn("learn", (phase,), steps=3, batch_size=2)
    for _ in range(2):
        sampler = speaker(fake, PLAIN, tmp_path / "sampler.0.jsonl").module
        data = {"train": rows(PLAIN, *({"prompt": f"the cat {p}"} for p in "abcd"))}
        ended = Loop(recipe(stages, sampler=frozen()), {"student": student, "sampler": sampler}, data).execute()
        seen.append(ended.student(batch_of(data["train"], torch.arange(2)), "logits"))
    assert len(fake.asked) == 6 and len({(b["prompt"], b["seed"]) for b in fake.asked}) == 6
    assert not torch.equal(*seen)


def test_a_server_gives_the_rows_that_the_same_model_gives_here(fake: Fake, tmp_path: Path) -> None:
    """A model of transformers answers behind the server; its greedy rollout on this machine is the reference."""
    here = open_player(tiny.write("gpt2", tmp_path / "teacher")).eval()

    def generate(body: dict[str, Any]) -> Any:
        coded = PLAIN(body["prompt"], return_tensors="pt")
        n = coded["input_ids"].shape[1]
        with fake.lock:
            out = here.lm.generate(**coded, max_new_tokens=body["max_tokens"], do_sample=False, pad_token_id=0,
                                   suppress_tokens=[*range(len(PLAIN), 400)])  # fmt: skip
        ended = int(out[0, -1]) == PLAIN.eos_token_id
        return answer(body, PLAIN.decode(out[0, n:], skip_special_tokens=True), "stop" if ended else "length")

    fake.reply = generate
    batch = batch_of_all(rows(PLAIN, *({"prompt": text[:12]} for text in tiny.TEXT)))
    local = Player("teacher", frozen(), here)
    mine, theirs = (ask(p, batch, temperature=0.0, max_new_tokens=8) for p in (local, speaker(fake, PLAIN)))
    assert answers(local, mine) == answers(local, theirs)
