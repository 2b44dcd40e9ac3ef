"""Two turns: the conversation is what a chat template writes, and exactly the corrections that were asked for stay."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
import torch
from transformers import LlamaConfig

from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.chat import chats
from limbeck.adapters.data import Records
from limbeck.batch import Batch
from limbeck.beds._text import columns
from limbeck.beds.chain import REQUEST, base, right_answer, rows
from limbeck.data import Table
from limbeck.errors import BadData, BadValue
from limbeck.index import load
from limbeck.loop import Loop, Options
from limbeck.override import override
from limbeck.parts.optimizer import sgd
from limbeck.parts.rollout import rollout
from limbeck.parts.token import cross_entropy
from limbeck.parts.transcript import (
    accepted,
    answers,
    contains_answer,
    improved,
    marks,
    repeated,
    request_text,
    requested,
)
from limbeck.players import Player, Players
from limbeck.probes.correction import broken, correction_gain, second_accuracy, two_turns
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.rng import Rng
from limbeck.roles import frozen, learning
from tests.adapters.test_causal_lm import tiny
from tests.adapters.tiny import CHATML, byte_tokenizer

ASKED = [{"role": "user", "content": "how much is 12 plus 30 ?"}]


def players(template: str | None) -> Players:
    tokenizer = byte_tokenizer(template)
    lm = tiny(LlamaConfig, 0, vocab_size=len(tokenizer))
    return Players({"student": Player("student", frozen(), CausalLM(lm, tokenizer))})


def answered(tokenizer: Any, answer: str, end: bool) -> Batch:
    """A row of a question, and an answer as it was sampled: with the end token, or cut before it."""
    prompt = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True)["input_ids"]
    said = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * end
    return Batch(columns([prompt], [said]))


@pytest.mark.parametrize("end", [True, False])
def test_the_second_prompt_is_what_the_template_writes(end: bool) -> None:
    # the truth is the whole conversation, rendered and tokenised by transformers
    game = players(CHATML)
    tokenizer = game.student.tokenizer
    made = requested(request="Sure?")(game, answered(tokenizer, "it is 41", end))
    talk = [*ASKED, {"role": "assistant", "content": "it is 41"}, {"role": "user", "content": "Sure?"}]
    truth = tokenizer.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
    assert made.tokens[0].tolist() == truth
    assert made.prompt.tolist() == made.length.tolist() == [len(truth)]
    assert made["first"] == ["it is 41"] and not made.mask.any()


def test_without_a_template_the_request_stands_between_empty_lines() -> None:
    game = players(None)
    tokenizer = game.student.tokenizer
    prompt, said = (tokenizer(t)["input_ids"] for t in ("the cat ?", "on the mat"))
    made = requested(request="Sure?")(game, Batch(columns([prompt], [[*said, tokenizer.eos_token_id]])))
    assert tokenizer.decode(made.tokens[0]) == "the cat ?on the mat\n\nSure?\n\n"


def test_a_template_that_hides_earlier_answers_is_refused() -> None:
    hides = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(BadData, match="leaves earlier answers out"):
        request_text(byte_tokenizer(hides), "Sure?")


def chain_of(first: list[str], second: list[str], question: str = "3+4*2=", answer: str = "3") -> Batch:
    """Conversations of one question, with these answers in both turns."""
    tokenizer = base().tokenizer
    coded = [[*tokenizer(t, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for t in second]
    n = len(first)
    texts = {"first": first, "question": [question] * n, "answer": [answer] * n}
    return Batch({**columns([[1]] * n, coded), **texts})


@pytest.fixture(scope="module")
def chain() -> Players:
    return Players({"student": Player("student", frozen(), base())})


FOUR = (["73", "73", "79", "79"], ["73", "79", "73", "70"])  # right-right, right-wrong, wrong-right, wrong-wrong


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({}, [2]),
        ({"gain": 0.0, "least": 1.0}, [0, 2]),
        ({"gain": -1.0}, [0, 1, 2, 3]),
        ({"gain": 1.0, "least": 1.5}, []),
    ],
)
def test_each_filter_keeps_its_own_of_the_four_moves(chain: Players, rule: dict[str, float], kept: list[int]) -> None:
    batch = chain_of(*FOUR)
    made = improved(verifier=right_answer(), **rule)(chain, batch)
    assert made["first"] == [FOUR[0][i] for i in kept] and answers(chain.student, made) == [FOUR[1][i] for i in kept]
    # each row keeps its random streams and its targets; those of others are not counted
    assert made.rng.rows.tolist() == kept and made.counts["tokens"] == 3 * len(kept)


def test_rejection_keeps_right_answers(chain: Players) -> None:
    made = accepted(verifier=right_answer())(chain, chain_of(*FOUR))
    assert answers(chain.student, made) == ["73", "73"]


def test_copies_have_streams_of_their_own() -> None:
    batch = Batch({"x": torch.tensor([5, 6])}, rng=Rng(("r",), torch.tensor([10, 11])))
    made = repeated(copies=3)({}, batch)
    assert made.x.tolist() == [5, 5, 5, 6, 6, 6] and made.rng.rows.tolist() == [30, 31, 32, 33, 34, 35]
    with pytest.raises(BadValue):
        repeated(copies=0)({}, batch)


def test_a_missing_answer_is_named() -> None:
    with pytest.raises(BadData, match="answer"):
        contains_answer.fn("42", {})


def test_the_second_turn_is_drawn_afresh(chain: Players) -> None:
    # with the request taken back, both turns would be the same draw if they shared their random numbers
    table = rows([(3, 0, 4, 2, 2)] * 64)
    batch = Batch(dict(table.take(torch.arange(64))))
    once = rollout(max_new_tokens=4)(chain, batch)
    asked = requested(request=REQUEST)(chain, once)
    again = rollout(max_new_tokens=4)(chain, batch.with_(x=torch.zeros(64)))
    later = rollout(max_new_tokens=4)(chain, Batch(dict(table.take(torch.arange(64))), rng=asked.rng))
    assert answers(chain.student, once) == answers(chain.student, again) != answers(chain.student, later)


def test_the_measures_agree_with_the_table_of_moves(chain: Players) -> None:
    table, turns = rows([(3, 0, 4, 2, 2), (5, 1, 7, 0, 9), (8, 2, 8, 1, 1)] * 20), two_turns(REQUEST, max_new_tokens=5)
    batch = turns(chain, Batch(dict(table.take(torch.arange(60))), rng=Rng(("two turns",), torch.arange(60))))
    first, second = (marks(t, batch, right_answer()) for t in (batch["first"], answers(chain.student, batch)))
    how = {"turns": turns, "verifier": right_answer(), "limit": 0}
    found = [m(**how)(chain, {"test": table}) for m in (second_accuracy, correction_gain, broken)]
    moves = [
        float(second.mean()),
        float((second - first).mean()),
        float(((first == 1) & (second == 0)).double().mean()),
    ]
    assert found == pytest.approx(moves)


def run(least: float) -> Loop:
    """One round of sampling, keeping and learning; one chunk of the data has no row that is kept."""
    table = rows([(0, 2, 0, 2, 0)] * 8 + [(3, 0, 4, 2, 2)] * 8)
    table = Table({**table.columns, "answer": ["x"] * 8 + ["3"] * 8})
    recipe = Recipe(
        key="rounds", title="", paper="", family="", kind="", learns="", teacher="",
        players={"student": learning(sgd(lr=1e-3))},
        stages=(
            Make("ask", rollout(max_new_tokens=4) >> accepted(verifier=right_answer(), least=least), "kept", chunk=8),
            Learn("learn", (Phase("student", ("student",), cross_entropy()),), steps=2, batch_size=4, data="kept"),
        ),
    )  # fmt: skip
    loop = Loop(recipe, {"student": base()}, {"train": table}, Options(seed=0))
    loop.execute()
    return loop


def test_the_loop_copes_with_chunks_that_are_left_empty() -> None:
    kept = run(1.0).data["kept"]
    assert 0 < len(kept) <= 8 and set(kept.take(torch.arange(len(kept)))["answer"]) == {"3"}


def test_nothing_kept_is_said_plainly() -> None:
    with pytest.raises(BadData, match="ask"):
        run(2.0)


def test_the_recipe_runs_on_conversations_of_another_model() -> None:
    # rows of messages with the true answer beside them, a byte-level tokenizer and a template of its own
    game = players(CHATML)
    rows = Records(datasets.Dataset.from_list([{"messages": ASKED, "answer": "42"}] * 6), "rows.jsonl")
    data = chats(rows, game.student.tokenizer)
    small = rollout(max_new_tokens=4)
    recipe = override(
        load("stasc"),
        {
            "rounds.times": 2, "rounds.evolving.first.rows": repeated(copies=2) >> small,
            "rounds.correct.rows": requested(request="?") >> small >> improved(gain=-1.0),
            "rounds.figures.second.turns": two_turns("?", max_new_tokens=4), "rounds.learn.batch_size": 6,
            "rounds.figures.gain.turns": two_turns("?", max_new_tokens=4), "student.optimizer.lr": 1e-3,
            "rounds.figures.broken.turns": two_turns("?", max_new_tokens=4),
        },
    )  # fmt: skip
    loop = Loop(recipe, {"student": game.student.module}, {"train": data, "test": data}, Options(seed=0))
    loop.execute()
    kept = loop.data["kept"].take(torch.arange(12))
    decode = game.student.tokenizer.decode
    for tokens, mask, prompt in zip(kept["tokens"], kept["mask"], kept["prompt"].tolist(), strict=True):
        # question, first answer and request in the words of the template; only what comes after is learnt
        asked = decode(tokens[:prompt])
        assert asked.startswith(f"<|im_start|>user\n{ASKED[0]['content']}<|im_end|>\n<|im_start|>assistant\n")
        assert asked.endswith("<|im_end|>\n<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n")
        assert 1 <= mask.sum() <= 4 and not mask[:prompt].any()
    assert {name for name in loop.results if name.startswith("rounds.2")} == {
        f"rounds.2.figures/{name}" for name in ("second", "gain", "broken")
    }
