"""Rows of language: every format becomes the same tokens, and the mask holds what the assistant says, to the token."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
import torch

from limbeck.adapters.chat import chats, read_row, tokenise
from limbeck.adapters.data import Records
from limbeck.adapters.text import check_tokenizers, labelled, translated, windows
from limbeck.errors import BadData, Mismatch
from tests.adapters.tiny import CHATML, byte_tokenizer, word_tokenizer

# The same template with the marks that transformers reads: the reference for the masks found without them.
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}"
    "{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "how much is 12 plus 30 ?"},
    {"role": "assistant", "content": "it is 42"},
    {"role": "user", "content": "and the cat ?"},
    {"role": "assistant", "content": "the cat sat"},
]
HALF = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer(CHATML)


def records(*rows: dict[str, Any]) -> Records:
    return Records(datasets.Dataset.from_list(list(rows)), "rows.jsonl")


def said(tokenizer: Any, source: Any, row: int = 0) -> tuple[str, str]:
    """The whole text of a row, and its targets."""
    columns = source.take(torch.tensor([row]))
    tokens, mask = columns["tokens"][0], columns["mask"][0]
    return tokenizer.decode(tokens), tokenizer.decode(tokens[mask])


def test_the_mask_is_that_of_generation_marks(tokenizer: Any) -> None:
    columns = chats(records({"messages": TALK}), tokenizer, 1000).take(torch.tensor([0]))
    reference = tokenizer.apply_chat_template(
        TALK, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    assert columns["tokens"][0].tolist() == reference["input_ids"]
    assert columns["mask"][0].int().tolist() == reference["assistant_masks"]


def test_what_precedes_the_answer_is_what_the_player_is_asked(tokenizer: Any) -> None:
    columns = chats(records({"messages": TALK[:3]}), tokenizer, 1000).take(torch.tensor([0]))
    asked = tokenizer.apply_chat_template(TALK[:2], add_generation_prompt=True)["input_ids"]
    assert columns["tokens"][0, : int(columns["prompt"])].tolist() == asked


@pytest.mark.parametrize(
    "row",
    [
        {"messages": HALF},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
        {"prompt": "Hi", "completion": "Ho"},
        {"prompt": HALF[:1], "completion": HALF[1:]},
        {"instruction": "Hi", "input": "", "output": "Ho"},
        {"question": "Hi", "answer": "Ho"},
    ],
)
def test_all_formats_are_one_conversation(tokenizer: Any, row: dict[str, Any]) -> None:
    whole, targets = said(tokenizer, chats(records(row), tokenizer))
    assert whole == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    assert targets == "Ho<|im_end|>"


def test_an_alpaca_input_follows_its_instruction() -> None:
    assert read_row({"instruction": "Add.", "input": "1 2", "output": "3"}, False).prompt == "Add.\n\n1 2\n\n"


def test_a_prompt_alone_asks_for_an_answer(tokenizer: Any) -> None:
    source = chats(records({"prompt": "Hi"}), tokenizer)
    whole, targets = said(tokenizer, source)
    assert whole.endswith("<|im_start|>assistant\n") and targets == ""
    columns = source.take(torch.tensor([0]))
    assert columns["prompt"].tolist() == columns["length"].tolist() == [columns["tokens"].shape[1]]


def test_tool_calls_are_kept_and_learnt(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    talk = [HALF[0], {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "2"}, HALF[1]]
    _, targets = said(tokenizer, chats(records({"messages": talk}), tokenizer, 1000))
    assert targets == '<call>add({"a": 1})<|im_end|>Ho<|im_end|>'


def test_raw_text_without_a_template() -> None:
    plain = byte_tokenizer()
    rows = records({"prompt": "the cat", "completion": " sat"}, {"prompt": "the dog", "completion": " ran away"})
    assert said(plain, chats(rows, plain)) == ("the cat sat<|end|>", " sat<|end|>")
    # Every token of running text but the first is a target.
    source = chats(records({"text": "the cat sat"}), plain)
    columns = source.take(torch.tensor([0]))
    assert said(plain, source)[0] == "the cat sat<|end|>" and columns["mask"][0].tolist()[:2] == [False, True]
    assert columns["prompt"].item() == 1


def test_rows_are_padded_on_the_right() -> None:
    plain = byte_tokenizer()
    source = chats(records({"text": "the cat"}, {"text": "the cat sat on the mat"}), plain)
    columns = source.take(torch.tensor([0, 1]))
    length = columns["length"]
    assert (columns["tokens"][0, length[0] :] == plain.pad_token_id).all() and length[1] == columns["tokens"].shape[1]
    assert not columns["mask"][0, length[0] :].any()


def test_a_template_that_forgets_marks_only_the_last_answer() -> None:
    forgetful = byte_tokenizer(FORGETFUL)
    talk = [HALF[0], {"role": "assistant", "content": "<think>x</think>Ho"}, *HALF]
    with pytest.warns(UserWarning, match="rewrites earlier turns in 1 of 1 rows"):
        source = chats(records({"messages": talk}), forgetful, 1000)
    assert said(forgetful, source)[1] == "Ho<|im_end|>"


def test_a_template_that_does_not_ask_still_marks_the_content() -> None:
    silent = byte_tokenizer(CHATML.split("{% if add_generation_prompt")[0])
    assert said(silent, chats(records({"messages": HALF}), silent, 1000))[1] == "Ho<|im_end|>"


def test_an_answer_that_the_template_leaves_out_is_no_target() -> None:
    """As templates do that ask for thoughts and drop them: nobody else's words may become the target in its place."""
    asks = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    drops = CHATML.split("{% if add_generation_prompt")[0].replace(
        "m['content'] }}", "m['content'].split('</think>')[-1] }}"
    )
    thoughtful = byte_tokenizer(drops + asks)
    assert said(thoughtful, chats(records({"messages": HALF}), thoughtful, 1000))[1] == "Ho<|im_end|>"
    talk = [HALF[0], {"role": "assistant", "content": "well</think>Ho"}]
    with pytest.raises(BadData, match="row 1: the chat template leaves out some of what the assistant says"):
        chats(records({"messages": talk}), thoughtful, 1000)


def test_long_completions_are_cut_and_counted(tokenizer: Any) -> None:
    rows = records({"prompt": "Hi", "completion": "the cat " * 40}, {"prompt": "Hi", "completion": "Ho"})
    with pytest.warns(UserWarning, match="1 of 2 rows exceed 30 tokens: completions cut on the right"):
        columns = chats(rows, tokenizer, 30).take(torch.tensor([0, 1]))
    assert columns["length"].tolist()[0] == 30 and columns["mask"][0, -1]
    with pytest.warns(UserWarning, match="left out"):
        assert len(chats(rows, tokenizer, 30, drop_long=True)) == 1


def test_a_prompt_longer_than_the_context_is_refused(tokenizer: Any) -> None:
    rows = records({"prompt": "Hi", "completion": "Ho"}, {"prompt": "the cat " * 40, "completion": "Ho"})
    with pytest.raises(BadData, match=r"rows.jsonl, row 2: the prompt alone has \d+ tokens, the context 30"):
        chats(rows, tokenizer, 30)


def test_rows_of_no_known_format(tokenizer: Any) -> None:
    with pytest.raises(BadData, match="no columns for language: got body; possible: messages"):
        chats(records({"body": "x"}), tokenizer)
    with pytest.raises(BadData, match=r"rows.jsonl, row 1: a message needs role and content"):
        chats(records({"messages": [{"speaker": "x"}]}), tokenizer)


def test_an_empty_prompt_gets_a_token_before_the_target() -> None:
    plain = byte_tokenizer()
    for row in ({"prompt": "", "completion": "x"}, {"text": ""}):
        tokens, mask, _ = tokenise(plain, read_row(row, False))
        assert tokens and not mask[0]


def test_windows_of_running_text() -> None:
    plain = byte_tokenizer()
    source = windows(records({"text": "the cat sat on the mat"}, {"text": "the dog"}), plain, 4)
    stream = source.take(torch.arange(len(source)))["tokens"].flatten().tolist()
    assert "the cat sat on the mat<|end|>the dog<|end|>".startswith(plain.decode(stream))
    with pytest.raises(BadData, match="less than one window of 1000"):
        windows(records({"text": "the cat"}), plain, 1000)


def test_labelled_pairs_have_segments() -> None:
    bert = word_tokenizer()
    columns = labelled(records({"premise": "the cat", "hypothesis": "the dog sat", "label": 1}), bert, 3).take(
        torch.tensor([0])
    )
    reference = bert("the cat", "the dog sat")
    assert columns["tokens"][0].tolist() == reference["input_ids"]
    assert columns["types"][0].tolist() == reference["token_type_ids"] and columns["y"].tolist() == [1]


def test_labels_out_of_range_and_unknown() -> None:
    bert = word_tokenizer()
    with pytest.raises(BadData, match="'label' is 3 in row 2; the classes are 0 to 2"):
        labelled(records({"text": "a", "label": 0}, {"text": "b", "label": 3}), bert, 3)
    with pytest.raises(BadData, match="'label' holds 'meh'; the classes are bad, good"):
        labelled(records({"text": "a", "label": "meh"}), bert, {"bad": 0, "good": 1})
    assert labelled(records({"text": "a", "label": "good"}), bert, {"bad": 0, "good": 1}).fixed["y"].tolist() == [1]


def test_translated_rows_begin_with_the_start_token() -> None:
    plain = byte_tokenizer()
    columns = translated(records({"source": "the cat", "target": "the dog"}), plain, (0,)).take(torch.tensor([0]))
    assert columns["tokens"][0].tolist() == [0, *plain("the dog")["input_ids"]]
    assert columns["mask"][0].tolist() == [False] + [True] * (columns["length"].item() - 1)


def test_tokenizers_that_fit_and_that_do_not() -> None:
    one, other = byte_tokenizer(), byte_tokenizer(text=["completely different words are here"] * 3)
    assert check_tokenizers(one, one) == []
    with pytest.raises(Mismatch, match=r"the tokenizers differ: .* in the teacher and .* in the student"):
        check_tokenizers(one, other)
    with pytest.raises(Mismatch):
        check_tokenizers(one, word_tokenizer())


def test_differences_that_are_told_but_allowed() -> None:
    import copy

    one = byte_tokenizer()
    other = copy.deepcopy(one)
    other.add_tokens(["<extra>"])
    other.eos_token, other.chat_template = "<|im_end|>", CHATML
    told = check_tokenizers(one, other)
    assert [t.split()[0] for t in told] == ["1", "eos_token", "the"]
    assert "known to the student only" in told[0] and "<|im_end|>" in told[1] and "chat templates" in told[2]
