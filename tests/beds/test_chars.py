"""The character bed: the counted teacher against counting by hand, and splits that share no text."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from limbeck.beds import chars
from limbeck.errors import BadValue
from limbeck.players import Player, Players
from limbeck.roles import frozen


def _witten_bell(text: list[int], context: tuple[int, ...], word: int, vocab: int) -> float:
    """The formula, one context at a time: (n(c, w) + d(c) p(w | c')) / (n(c) + d(c)); unseen contexts are skipped."""
    below = _witten_bell(text, context[1:], word, vocab) if context else 1 / vocab
    k = len(context)
    after = Counter(text[i + k] for i in range(len(text) - k) if tuple(text[i : i + k]) == context)
    if not after:
        return below
    return (after[word] + len(after) * below) / (sum(after.values()) + len(after))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_counted_model_is_witten_bell(order) -> None:
    text = torch.randint(4, (60,), generator=torch.Generator().manual_seed(order)).tolist()
    model = chars.Ngram(torch.tensor(text), 5, order)  # token 4 was never seen
    said = [0, 3, 3, 1, 4, 2, 0, 1]
    found = model(torch.tensor([said]), torch.ones(1, 8, dtype=torch.bool))[0].exp()
    for t in range(8):
        context = tuple(said[max(0, t + 2 - order) : t + 1]) if order > 1 else ()
        expected = [_witten_bell(text, context, w, 5) for w in range(5)]
        torch.testing.assert_close(found[t], torch.tensor(expected), rtol=1e-5, atol=1e-7)


def test_left_padding_is_not_a_context() -> None:
    net, tokens = chars.teacher(), chars.splits(0)["test"].columns["tokens"][:1, :10]
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), tokens), 1)
    seen = torch.ones_like(padded, dtype=torch.bool)
    seen[:, :3] = False
    alone = net.rule(tokens, torch.ones_like(tokens, dtype=torch.bool))
    torch.testing.assert_close(net.rule(padded, seen)[:, 3:], alone)


def test_windows_are_pieces_of_their_own_split() -> None:
    data, text, n = chars.splits(0), chars.text(), len(chars.text())
    for split, (start, end) in {"train": (0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1)}.items():
        part = text[int(start * n) : int(end * n)]
        rows = data[split].columns["tokens"].tolist()
        assert all(chars.alphabet().decode(row) in part for row in rows[:50])
        assert len(rows) > 100


def test_seeds_choose_the_training_windows_alone() -> None:
    a, b = chars.splits(0), chars.splits(1)
    assert a["test"].fingerprint == b["test"].fingerprint
    assert a["train"].fingerprint != b["train"].fingerprint
    assert a["train"].fingerprint == chars.splits(0)["train"].fingerprint


def test_the_teacher_knows_the_text_better_than_chance_and_than_shorter_counts() -> None:
    # order by order, more context helps on held-out text
    data, vocab = chars.splits(0), chars.alphabet().size
    nets = [chars.ExactLM(chars.Ngram(chars.encoded("train"), vocab, k), vocab) for k in (1, 2, 3)] + [chars.teacher()]
    nll = [chars.nll()(Players({"student": Player("student", frozen(), net)}), data) for net in nets]
    assert nll == sorted(nll, reverse=True) and nll[-1] < 1.7


def test_orders_beyond_63_bits_are_refused() -> None:
    with pytest.raises(BadValue, match="too high"):
        chars.Ngram(torch.zeros(20, dtype=torch.long), 64, 11)


def test_the_excerpt_is_small() -> None:
    assert len(chars.text().encode()) <= 100_000
