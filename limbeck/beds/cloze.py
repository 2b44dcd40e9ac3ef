"""Texts of a small grammar about hidden topics, and a masked language model that has read many of them.

A text is about one of twelve topics, which it never names; a class is a group of four of them. Asked with one of ten
cues, the model answers with one of four words, which topics share, also across classes: no word stands for a class, and
no cue tells the topics apart. The grammar being known, so is the true class distribution of every text.

    S -> P P        P -> the N V the N .        N, V: words by topic

Shapes: K topics, C classes, R rows, W words, A answers of a cue, Q cues.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import limbeck.assets
from limbeck.beds import Bed
from limbeck.data import Table
from limbeck.errors import unknown
from limbeck.probes.classification import accuracy
from limbeck.rng import Rng

if TYPE_CHECKING:
    from limbeck.adapters.cloze import Cloze

__all__ = ["CLASSES", "CUES", "LABEL", "PROMPTS", "TEACHER", "VOCABULARY", "Oracle", "answers", "bed", "texts"]

TOPICS, CLASSES = 12, 3
NOUNS, VERBS, ANSWERS = 60, 30, 4
SHARP, ANSWERED = 1.4, 1.5  # how much the words of a text, and the answers to a cue, depend on the topic
CUES = ("about", "after", "against", "beyond", "for", "like", "near", "under", "until", "with")
PROMPTS = tuple(f"{{text}} {cue} {{mask}} ." for cue in CUES)
LABEL = torch.arange(TOPICS) % CLASSES
SPECIAL = ("<pad>", "<mask>", "<unk>")
VOCABULARY = (
    *SPECIAL, ".", "the", *CUES, *(f"noun{i}" for i in range(NOUNS)), *(f"verb{i}" for i in range(VERBS)),
    *(f"{cue}{i}" for cue in CUES for i in range(ANSWERS)),
)  # fmt: skip
TEACHER = Path(limbeck.assets.__file__).parent / "cloze-teacher"
GRAMMAR = "NVNNVN"  # the places of a text that depend on its topic


@lru_cache(maxsize=1)
def _rules() -> Mapping[str, Tensor]:
    """Log-probabilities of the words that stand for N and V (K, W) and of the answers to the cues (K, Q, A)."""
    rng = Rng(("cloze", "rules"), torch.arange(TOPICS))
    raw = {"N": SHARP * rng.normal("N", NOUNS), "V": SHARP * rng.normal("V", VERBS)}
    raw["answers"] = ANSWERED * rng.normal("answers", len(CUES), ANSWERS)
    return {name: scores.log_softmax(-1) for name, scores in raw.items()}


def answers(topics_R: Tensor, cue: int) -> Tensor:
    """The probabilities of the answers to a cue, given the topics.

    Args:
        topics_R: the topic of each row.
        cue: its place in `CUES`.

    Returns:
        (R, A), in the order of the vocabulary.
    """
    return _rules()["answers"][topics_R, cue].exp()


def texts(rng: Rng, topics_R: Tensor) -> list[str]:
    """Write texts about topics.

    Args:
        rng: R streams.
        topics_R: the topic of each.

    Returns:
        R texts of two sentences.

    Example:
        >>> texts(Rng(("seed", 0), torch.arange(1)), torch.tensor([3]))[0].count("the noun")
        4
    """
    chosen = []
    for place, kind in enumerate(GRAMMAR):
        cdf_RW = _rules()[kind][topics_R].exp().cumsum(-1)
        drawn_R1 = torch.searchsorted(cdf_RW, rng.uniform(f"word{place}", 1)).clamp(max=cdf_RW.shape[1] - 1)
        chosen.append(drawn_R1[:, 0].tolist())
    phrase = "the noun{} verb{} the noun{} ."
    return [f"{phrase} {phrase}".format(*words) for words in zip(*chosen, strict=True)]


class Oracle(nn.Module):
    """The truth: p(class | text) by Bayes over the topics, which are equally likely.

    p(c | w) = sum_{k in c} prod_i p(w_i | k) / sum_k prod_i p(w_i | k)
    """

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "logits", log-probabilities (R, C) of the classes, and "topics" (R, K) on `text`.

        Raises:
            UnknownName: a word that the grammar does not have.
        """
        topics_RK = torch.stack([self._topics(text) for text in batch["text"]]).log_softmax(-1)
        by_class = [topics_RK[:, c == LABEL].logsumexp(-1) for c in range(CLASSES)]
        given = {"logits": torch.stack(by_class, -1), "topics": topics_RK}
        return {name: answer for name, answer in given.items() if name in want}

    def _topics(self, text: str) -> Tensor:
        """Log-likelihoods (K,) of a text under every topic."""
        words = [word for word in text.split() if word not in (".", "the")]
        known = {"noun": _rules()["N"], "verb": _rules()["V"]}
        if strange := [w for w in words if w[:4] not in known]:
            raise unknown("word", strange[0], VOCABULARY, where="the grammar")
        return torch.stack([known[word[:4]][:, int(word[4:])] for word in words]).sum(0)


def _teacher(_seed: int) -> Cloze:
    from limbeck.adapters.cloze import Cloze  # recipes name this bed's prompts: reading them needs no model library
    from limbeck.adapters.encoder import Encoder
    from limbeck.adapters.source import open_directory

    encoder = open_directory(TEACHER)
    assert isinstance(encoder, Encoder)
    return Cloze(encoder)


def _rows(split: str, seed: int, per_class: int) -> Table:
    rng = Rng(("cloze", split, seed), torch.arange(CLASSES * per_class))
    y_R = torch.arange(CLASSES * per_class) % CLASSES
    topics_R = y_R + CLASSES * rng.integers("topic", TOPICS // CLASSES)
    return Table({"text": texts(rng, topics_R), "y": y_R})


def _data(seed: int) -> dict[str, Table]:
    return {s: _rows(s, seed, n) for s, n in {"train": 16, "valid": 16, "test": 100}.items()}


bed = Bed(
    key="cloze",
    about="Texts of a grammar in three classes, 16 of each to learn from, and a masked model that fills gaps in them.",
    players={"teacher": _teacher, "oracle": lambda _seed: Oracle()},
    data=_data,
    probes={"accuracy": accuracy()},
)
