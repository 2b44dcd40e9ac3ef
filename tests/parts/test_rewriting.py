"""Rewriting: a writer whose every word is known, so that the rows that come out can be written down by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from limbeck.adapters import chat
from limbeck.batch import Batch
from limbeck.beds._text import BOS, EOS, Alphabet, columns
from limbeck.parts.rewriting import agrees, never, rewritten
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import take
from limbeck.players import Player, Players
from limbeck.roles import frozen
from tests.adapters.tiny import CHATML, byte_tokenizer

CHARS = Alphabet("0123456789abc+=?")


class Writer(nn.Module):
    """Says one text after whatever it is asked, and remembers what it was asked."""

    def __init__(self, says: list[int], tokenizer: Any, vocab: int, end: int) -> None:
        super().__init__()
        self.says, self.tokenizer, self.vocab = says, tokenizer, vocab
        self.eos, self.pad, self.context = (end,), 0, None
        self.asked: list[list[int]] = []

    def forward(self, batch, want):
        k = batch["cache"] or 0
        if k == 0:
            self.asked += [row[seen].tolist() for row, seen in zip(batch["tokens"], batch["seen"], strict=True)]
        logits = torch.full((len(batch["tokens"]), self.vocab), -1e9)
        logits[:, self.says[min(k, len(self.says) - 1)]] = 0.0
        return {"next": logits, "cache": k + 1}


def game(says: list[int], tokenizer: Any = None, vocab: int = CHARS.size, end: int = EOS) -> Players:
    net = Writer(says, tokenizer or CHARS.tokenizer(), vocab, end)
    return Players({"student": Player("student", frozen(), net)})


def batch() -> Batch:
    asked, said = ["1+2=", "4+5+a="], ["3", "4b9"]
    prompts = [[BOS, *CHARS.encode(q)] for q in asked]
    return Batch(columns(prompts, [[*CHARS.encode(a), EOS] for a in said]))


def texts(rows: Batch) -> list[tuple[str, str]]:
    return [
        (CHARS.decode(t[:p][1:].tolist()), "".join(CHARS.chars[i - 4] if i > 3 else "." for i in t[m].tolist()))
        for t, m, p in zip(rows.tokens, rows.mask, rows["prompt"].tolist(), strict=True)
    ]


def test_the_writer_sees_prompt_reference_and_request_and_what_it_says_is_the_target() -> None:
    players = game([*CHARS.encode("c9"), EOS])
    made = rewritten(request="?", said=rollout(max_new_tokens=5))(players, batch())
    shown = [[BOS, *CHARS.encode(x), EOS, BOS, *CHARS.encode("?")] for x in ("1+2=3", "4+5+a=4b9")]
    assert players.student.asked[-2:] == shown  # its cache cannot be joined, so that it is asked for all rows at last
    # the first reference ends in 3, which "c9" does not; the second in 9
    assert texts(made) == [("1+2=", "3."), ("4+5+a=", "c9.")]
    assert made["own"].tolist() == [0.0, 1.0] and made.length.tolist() == [7, 10]
    assert made.tokens[0, 7:].eq(0).all() and not made.mask[0, 7:].any()


def test_what_does_not_end_or_is_refused_leaves_the_reference() -> None:
    for says, verifier in (([*CHARS.encode("999")], agrees()), ([*CHARS.encode("9"), EOS], never())):
        made = rewritten(request="?", said=rollout(max_new_tokens=3), verifier=verifier)(game(says), batch())
        given = batch()
        assert all(torch.equal(made[k], given[k]) for k in ("tokens", "mask", "length")) and not made["own"].any()


def test_rows_with_several_answers_stay_as_they_are() -> None:
    given = batch()
    mask = given.mask.clone()
    mask[1, 3] = True  # something else in the row was said by the assistant too
    prompt = torch.tensor([5, 3])
    made = rewritten(request="?", said=rollout(max_new_tokens=5))(
        game([*CHARS.encode("c9"), EOS]), given.with_(mask=mask, prompt=prompt)
    )
    assert torch.equal(made.tokens, given.tokens) and torch.equal(made.mask, mask)


def test_rows_that_got_no_answer_keep_theirs_and_the_others_do_not_slip() -> None:
    def second_only(players, rows):
        return take(said(players, rows), [1])

    said = rollout(max_new_tokens=5)
    made = rewritten.fn(game([*CHARS.encode("c9"), EOS]), batch(), request="?", said=second_only)
    assert texts(made) == [("1+2=", "3."), ("4+5+a=", "c9.")]


def test_chat_templates_write_their_own_turns() -> None:
    tokenizer = byte_tokenizer(CHATML)
    messages = [{"role": "user", "content": "how much is 12 plus 30 ?"}, {"role": "assistant", "content": "it is 42"}]
    tokens, mask, _ = chat.tokenise(tokenizer, chat.Transcript(tuple(messages)))
    row = {"tokens": torch.tensor([tokens]), "mask": torch.tensor([mask]), "length": torch.tensor([len(tokens)])}
    given = Batch({**row, "prompt": torch.tensor([mask.index(True)])})
    end = tokenizer.eos_token_id
    says = [*tokenizer("42 it is : 42")["input_ids"], end]
    players = game(says, tokenizer, len(tokenizer), end)
    made = rewritten(request="say it again", said=rollout(max_new_tokens=20))(players, given)
    again = [*messages, {"role": "user", "content": "say it again"}]
    wanted = tokenizer.apply_chat_template(again, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(players.student.asked[0]) == wanted
    before = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(made.tokens[0, : int(made.length)]) == before + "42 it is : 42<|im_end|>"
    assert made.tokens[0][made.mask[0]].tolist() == says


@pytest.mark.parametrize(
    ("said", "reference", "mark"),
    [("it is 1,200.", "1200", 1), ("12", "-12", 0), ("one two", "a b c d e f g", 0), ("one two three", "a b c", 1)],
)
def test_agreement(said: str, reference: str, mark: float) -> None:
    assert agrees.fn(said, {"reference": reference}) == mark
