"""Token rows, windows and sentences, against slicing and padding by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DataCollatorWithPadding

from limbeck.adapters.text import Tokens, check_tokenizers, columns_of, labelled, sentences, translated, windows
from limbeck.data import Table
from limbeck.errors import BadData, Mismatch
from tests.adapters.tiny import TEXT, byte_tokenizer, word_tokenizer

ROWS = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=8)


class Rows(Table):
    """Columns with a name for messages, as files have them."""

    where = "somewhere"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    @property
    def rows(self) -> Any:
        return self.columns


@pytest.fixture(scope="module")
def plain() -> Any:
    return byte_tokenizer()


@settings(deadline=None)
@given(rows=ROWS, data=st.data(), pad=st.integers(0, 3))
def test_rows_come_padded_to_the_longest_of_those_taken(rows: list[list[int]], data: st.DataObject, pad: int) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
    mask = [[n % 2 == 0 for n in row] for row in rows]
    taken = Tokens({"tokens": rows, "mask": mask}, pad=pad).take(torch.tensor(chosen))
    width = max(len(rows[i]) for i in chosen)
    assert taken["tokens"].tolist() == [rows[i] + [pad] * (width - len(rows[i])) for i in chosen]
    # Padding is never a target, whatever number stands for it.
    assert taken["mask"].tolist() == [mask[i] + [False] * (width - len(rows[i])) for i in chosen]
    assert taken["length"].tolist() == [len(rows[i]) for i in chosen]
    assert (taken["tokens"].dtype, taken["mask"].dtype) == (torch.int64, torch.bool)


@settings(deadline=None)
@given(rows=ROWS, data=st.data())
def test_a_fingerprint_is_that_of_the_rows_and_their_borders(rows: list[list[int]], data: st.DataObject) -> None:
    other = data.draw(
        st.one_of(ROWS, st.just([list(row) for row in rows]), st.just([[n for row in rows for n in row]]))
    )
    same = Tokens({"tokens": rows}).fingerprint == Tokens({"tokens": other}).fingerprint
    assert same == (rows == other)


def test_a_fingerprint_sees_labels_names_and_texts() -> None:
    tokens = {"tokens": [[1, 2], [3]]}
    made = [
        Tokens(tokens),
        Tokens(tokens, {"y": torch.tensor([0, 1])}),
        Tokens(tokens, {"y": torch.tensor([1, 0])}),
        Tokens(tokens, {"z": torch.tensor([0, 1])}),
        Tokens(tokens, texts={"id": ["a", "b"]}),
        Tokens(tokens | {"source": [[1], [2]]}),
    ]
    assert len({source.fingerprint for source in made}) == len(made)


def test_every_column_that_is_named_is_given_and_texts_follow_their_rows() -> None:
    ragged = {"tokens": [[1], [2, 3]], "mask": [[False], [False, True]], "source": [[4, 5, 6], [7]]}
    source = Tokens(ragged, {"y": torch.tensor([5, 6])}, texts={"id": ["a", "b"]})
    taken = source.take(torch.tensor([1, 1, 0]))
    assert set(taken) == set(source.names) and len(source) == 2
    assert taken["id"] == ["b", "b", "a"] and taken["y"].tolist() == [6, 6, 5]
    assert taken["source_length"].tolist() == [1, 1, 3]


@settings(deadline=None)
@given(texts=st.lists(st.text("the cat\n é9", max_size=30), min_size=1, max_size=5), length=st.integers(2, 6))
def test_windows_are_slices_of_the_joined_documents(plain: Any, texts: list[str], length: int) -> None:
    stream = [t for text in texts for t in [*plain.encode(text, add_special_tokens=False), plain.eos_token_id]]
    if len(stream) < length:
        with pytest.raises(BadData, match=f"somewhere holds {len(stream)} tokens, less than one window of {length}"):
            windows(Rows({"text": texts}), plain, length)
        return
    source = windows(Rows({"text": texts}), plain, length)
    taken = source.take(torch.arange(len(source)))
    count = len(stream) // length
    assert taken["tokens"].tolist() == [stream[i * length : (i + 1) * length] for i in range(count)]
    assert taken["mask"].sum().item() == count * (length - 1) and not taken["mask"][:, 0].any()
    assert taken["prompt"].tolist() == [1] * count


def test_rows_of_a_classifier_are_those_of_the_collator_of_transformers() -> None:
    bert = word_tokenizer()
    coded = [bert(text, truncation=True, max_length=7) for text in TEXT]
    expected = DataCollatorWithPadding(bert)(coded)
    with pytest.warns(UserWarning, match="3 of 3 rows exceed 7 tokens: cut at the end"):
        source = labelled(Rows({"sentence": TEXT, "score": [0.5, 2.0, 1.0]}), bert, context=7)
    taken = source.take(torch.arange(3))
    assert torch.equal(taken["tokens"], expected["input_ids"])
    assert torch.equal(taken["length"], expected["attention_mask"].sum(1))
    # Scores stay real numbers: no class is made of them.
    assert taken["y"].tolist() == [0.5, 2.0, 1.0] and taken["y"].is_floating_point()


def test_names_of_classes_are_numbered_by_the_alphabet_where_nobody_numbers_them() -> None:
    source = labelled(Rows({"text": ["a", "b", "c"], "label": ["no", "yes", "maybe"]}), word_tokenizer())
    assert source.fixed["y"].tolist() == [1, 2, 0]


def test_pairs_become_single_sentences_side_after_side(plain: Any) -> None:
    source = sentences(Rows({"sentence1": ["the cat", "a"], "sentence2": ["the dog", "is shining"]}), plain)
    taken = source.take(torch.arange(4))
    said = [plain.decode(t[:n]) for t, n in zip(taken["tokens"], taken["length"].tolist(), strict=True)]
    assert said == ["the cat", "a", "the dog", "is shining"]


@pytest.mark.parametrize("context", [3, 5, 60])
def test_translations_are_cut_to_the_context_with_the_start_inside_it(plain: Any, context: int) -> None:
    rows = Rows({"source": [TEXT[0], "a"], "target": [TEXT[2], "b"]})
    if context < 60:
        with pytest.warns(UserWarning, match=f"1 of 2 rows exceed {context} tokens"):
            source = translated(rows, plain, (7,), context)
    else:
        source = translated(rows, plain, (7,), context)
    taken = source.take(torch.tensor([0]))
    assert taken["tokens"][0].tolist() == [7, *plain.encode(TEXT[2])][:context]
    assert taken["source"][0].tolist() == plain.encode(TEXT[0])[:context]
    assert taken["mask"].sum() == taken["length"] - 1


def test_columns_are_the_first_group_that_is_whole() -> None:
    pairs = Rows({"premise": ["a"], "hypothesis": ["b"], "question": ["c"]})
    groups = (("question", "sentence"), ("premise", "hypothesis"))
    assert columns_of(pairs, groups, "text") == groups[1]
    with pytest.raises(BadData, match=r"no columns for text: got x; possible: question \+ sentence; premise"):
        columns_of(Rows({"x": [1]}), groups, "text")


def test_a_student_may_know_a_few_tokens_more_but_not_many(plain: Any) -> None:
    more, many = copy.deepcopy(plain), copy.deepcopy(plain)
    more.add_tokens(["<tool>", "</tool>"])
    assert check_tokenizers(plain, more) == [
        "2 tokens are known to the student only; the teacher's distribution has no mass there"
    ]
    assert check_tokenizers(more, plain)[0].startswith("2 tokens are known to the teacher only")
    many.add_tokens([f"<extra {i}>" for i in range(100)])
    size = len(plain)
    with pytest.raises(Mismatch, match=f"of {size} and {size + 100} tokens share only {size}"):
        check_tokenizers(plain, many)


def test_ends_templates_and_the_way_of_cutting_are_compared(plain: Any) -> None:
    other = copy.deepcopy(plain)
    other.pad_token, other.chat_template = "<|im_end|>", "{{ messages }}"
    told = check_tokenizers(plain, other)
    assert told == [
        "pad_token is '<|end|>' in the teacher and '<|im_end|>' in the student; the student's is used",
        "the chat templates differ; both players see the student's",
    ]
    from tokenizers import normalizers

    lower = copy.deepcopy(plain)
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(Mismatch, match="the same tokens but cut text differently"):
        check_tokenizers(plain, lower)
