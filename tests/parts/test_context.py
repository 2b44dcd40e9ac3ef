"""Privileged contexts: what is told stands where the template has it, and the answers stay at their places."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.beds._text import BOS, EOS, Alphabet, columns, tiny_llama
from limbeck.errors import BadData, BadValue
from limbeck.kernels.head import TokenHead
from limbeck.parts.context import inserted, remembered, told, turn_end
from limbeck.parts.optimizer import sgd
from limbeck.parts.token import forward_kl
from limbeck.players import Players, build
from limbeck.roles import copy_of, learning, self_under

ABC = Alphabet("abcdefgh:")
TURNS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'a' + m['content'] + 'b' }}{% else %}"
    "{{ 'c' + m['content'] + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'c' }}{% endif %}"
)
TEXTS = st.text("defgh", min_size=1, max_size=5)


def net(template: str | None = None) -> CausalLM:
    tokenizer = ABC.tokenizer()
    tokenizer.chat_template = template
    return CausalLM(tiny_llama(ABC.size, 0, width=16, layers=2), tokenizer)


def rows(prompts: list[str], completions: list[str]) -> Batch:
    asked = [[BOS, *ABC.encode(p)] for p in prompts]
    return Batch(columns(asked, [[*ABC.encode(c), EOS] for c in completions]))


def game(model: CausalLM, batch: Batch, template: str = ":{told}:") -> Players:
    roles = {
        "student": learning(sgd()),
        "teacher": self_under("student", told(column="hint", template=template)),
        "frozen": copy_of("student"),
    }
    return build(roles, {"student": model}, batch)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, st.one_of(st.just(""), TEXTS)), min_size=1, max_size=4))
def test_the_teacher_answers_as_on_a_row_written_with_its_hint(found: list[tuple[str, str, str]]) -> None:
    prompts, completions, hints = (list(column) for column in zip(*found, strict=True))
    batch, model = rows(prompts, completions).with_(hint=hints), net()
    players = game(model, batch)
    # written by hand, one row at a time: no padding, no places
    for b, (prompt, completion, hint) in enumerate(found):
        one = rows([prompt + (f":{hint}:" if hint else "")], [completion])
        expected = model(one, frozenset({"head"}))["head"].predicting(one.mask).logits()
        head = players.teacher(batch, "head")
        only = torch.zeros_like(batch.mask)
        only[b] = batch.mask[b]
        torch.testing.assert_close(head.predicting(only).logits(), expected, atol=1e-5, rtol=1e-4)


def test_logits_and_heads_are_brought_back_alike() -> None:
    batch = rows(["de", "d"], ["fg", "h"]).with_(hint=["gg", ""])
    players = game(net(), batch)
    logits, head = players.teacher(batch, "logits", "head")
    assert isinstance(head, TokenHead) and logits.shape[:2] == batch.tokens.shape
    torch.testing.assert_close(head.logits(), logits)
    assert not logits.requires_grad


def test_what_is_told_stands_in_the_turn_of_the_user() -> None:
    model = net(TURNS)
    assert turn_end(model.tokenizer) == ABC.encode("bc")
    batch = rows(["adebc"], ["fg"]).with_(hint=["gg"])
    players = game(model, batch)
    seen = told(column="hint", template=":{told}")(players, batch)
    assert [ABC.decode(row.tolist()) for row in seen.tokens] == ["ade:ggbcfg"]
    assert seen.prompt.tolist() == [9] and seen.length.tolist() == [12]
    # a prompt that the template did not write is continued behind its last token
    plain = told(column="hint", template=":{told}")(players, rows(["de"], ["fg"]).with_(hint=["gg"]))
    assert ABC.decode(plain.tokens[0].tolist()) == "de:ggfg"


def test_nothing_told_changes_nothing_and_costs_nothing() -> None:
    batch = rows(["de", "dde"], ["fg", "h"]).with_(hint=["", ""])
    players = game(net(), batch)
    seen = told(column="hint")(players, batch)
    assert torch.equal(seen.tokens, batch.tokens) and torch.equal(seen.mask, batch.mask)
    loss = forward_kl()(players, batch, batch.mask.float())
    assert float(loss) == pytest.approx(0.0, abs=1e-7)
    informed = batch.with_(hint=["ggg", "hh"])
    assert float(forward_kl()(players, informed, informed.mask.float())) > 1e-6


def test_answers_are_remembered_before_they_are_replaced() -> None:
    batch = rows(["de", "d"], ["fg", "h"])
    players = game(net(), batch.with_(hint=["", ""]))
    assert remembered()(players, batch)["reference"] == ["fg", "h"]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_target_keeps_its_token(data: st.DataObject) -> None:
    B, T = data.draw(st.integers(1, 4)), 7
    length_B = torch.tensor([data.draw(st.integers(2, T)) for _ in range(B)])
    prompt_B = torch.tensor([data.draw(st.integers(1, int(n) - 1)) for n in length_B])
    at_T = torch.arange(T)
    tokens_BT: Tensor = torch.where(at_T < length_B[:, None], torch.randint(4, 9, (B, T)), 0)
    mask_BT = (at_T >= prompt_B[:, None]) & (at_T < length_B[:, None])
    batch = Batch({"tokens": tokens_BT, "mask": mask_BT, "length": length_B, "prompt": prompt_B})
    pieces = [[9] * data.draw(st.integers(0, 3)) for _ in range(B)]
    made = inserted(batch, pieces, [5], pad=0)
    assert made.tokens[made.mask].tolist() == tokens_BT[mask_BT].tolist()
    # the state that predicts target t stood at t - 1; its place is before the same token
    b, t = mask_BT.nonzero().T
    assert torch.equal(made.tokens[b, made.place[b, t - 1] + 1], tokens_BT[b, t])


def test_bad_contexts_are_refused() -> None:
    batch = rows(["de"], ["fg"]).with_(hint=["gg"])
    players = game(net(), batch)
    with pytest.raises(BadValue, match=r"\{told\}"):
        told(column="hint", template="no place")(players, batch)
    long = batch.with_(hint=["g" * 300], index=torch.tensor([41]))
    with pytest.raises(BadData, match=r"row 41: 308 tokens .* exceed the context of student, 256"):
        told(column="hint", template=":{told}:")(players, long)
    with pytest.raises(BadData, match="leaves out what the user says"):
        turn_end(net("{{ 'a' }}").tokenizer)
