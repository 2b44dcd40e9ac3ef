"""The lexicon: words, chain, tokenizer and sentences are what they are said to be."""

from __future__ import annotations

import re

import torch

from limbeck.beds import lexicon


def test_words_are_different_and_the_chain_is_one_of_probabilities() -> None:
    words = lexicon.words()
    assert len({*words}) == lexicon.WORDS and all(re.fullmatch("( )([dklmnprst][aeiou]){1,3}", w) for w in words)
    chain = lexicon.chain()
    torch.testing.assert_close(chain.sum(1), torch.ones(lexicon.WORDS + 1, dtype=torch.float64))
    assert float(chain[-1, -1]) == 0 and float(chain[0, -1]) == lexicon.ENDS


def test_the_tokenizer_merges_letters_and_never_crosses_a_space() -> None:
    tokenizer, words = lexicon.bpe(), lexicon.words()
    assert len(tokenizer) == lexicon.ALPHABET.size + lexicon.MERGES
    spelled = [tokenizer(w, add_special_tokens=False)["input_ids"] for w in words]
    assert sum(map(len, spelled)) < 0.7 * sum(map(len, words))
    text = "".join(words[:5])
    assert tokenizer(text)["input_ids"] == [1, *(t for ids in spelled[:5] for t in ids)]
    assert tokenizer.decode(spelled[3]) == words[3]


def test_sentences_follow_the_chain() -> None:
    said = [re.findall(" [a-z]+|</s>", text) for text in lexicon.sentences(4000, "test")]
    words, chain = lexicon.words(), lexicon.chain()
    first = torch.tensor([words.index(s[0]) for s in said]).bincount(minlength=lexicon.WORDS) / len(said)
    torch.testing.assert_close(first.double(), chain[-1, :-1], atol=0.03, rtol=0)
    ended = [s[1] == "</s>" for s in said]
    assert abs(sum(ended) / len(ended) - lexicon.ENDS) < 0.03
    assert max(len(s) - (s[-1] == "</s>") for s in said) == lexicon.MOST


def test_splits_differ_by_seed_and_from_each_other() -> None:
    a, b = lexicon.splits(0), lexicon.splits(1)
    prints = {table.fingerprint for splits in (a, b) for table in splits.values()}
    assert len(prints) == 6 and a["train"].fingerprint == lexicon.splits(0)["train"].fingerprint


def test_impossible_texts_are_unlikely_and_finite() -> None:
    net = lexicon.teacher()
    tokens = torch.tensor([[1, 5, 5, 2, 9, 0]])
    logp = net.rule(tokens, tokens > 0)
    assert logp.isfinite().all() and float(logp.min()) == lexicon.FLOOR
