from __future__ import annotations

import torch

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds.retrieval import ON_TOPIC, OWN, PREFIXES, SHARED, TOPICS, VOCABULARY, embedder
from limbeck.players import Player, Players
from limbeck.probes.retrieval import ndcg
from limbeck.roles import frozen

BED = load_bed("retrieval")
WANT = frozenset({"embedding"})


def test_a_word_is_its_topics_own_at_the_rate_that_is_said() -> None:
    rows = Batch(BED.data(0)["train"].columns)
    words = rows["tokens"] - 2
    inside, own = words >= 0, (words >= 0) & (words < TOPICS * OWN)
    assert torch.equal(inside.sum(1), rows["length"]) and int(rows["tokens"].max()) < len(VOCABULARY)
    assert (words // OWN == rows["y"][:, None])[own].all()
    share, n = own.sum() / inside.sum(), int(inside.sum())
    assert abs(float(share) - ON_TOPIC) < 4 * (ON_TOPIC * (1 - ON_TOPIC) / n) ** 0.5
    shared = words[inside & ~own] - TOPICS * OWN
    assert shared.unique().tolist() == list(range(SHARED))


def test_lengths_tell_queries_from_documents_and_every_topic_has_as_many() -> None:
    for split in ("valid", "test"):
        rows = Batch(BED.data(1)[split].columns)
        for document, (low, high) in ((False, (3, 6)), (True, (10, 16))):
            some = rows["document"] == document
            assert rows["length"][some].unique().tolist() == list(range(low, high + 1))
            assert torch.equal(rows["y"][some].bincount(), torch.full((TOPICS,), 10))


def test_splits_and_seeds_are_other_draws_and_the_same_again() -> None:
    prints = [BED.data(seed)[split].fingerprint for seed in (0, 1) for split in ("train", "valid", "test")]
    assert len(set(prints)) == 6 and BED.data(0)["test"].fingerprint == prints[2]


def test_the_shipped_teacher_finds_documents_by_every_prefix_and_an_untrained_one_does_not() -> None:
    nets = {"teacher": BED.players["teacher"](0), "student": embedder(1, width=PREFIXES[-1], layers=2)}
    players = Players({name: Player(name, frozen(), net.eval()) for name, net in nets.items()})
    with torch.no_grad():
        for dims in PREFIXES[1:]:
            assert ndcg(queries="teacher", documents="teacher", dims=dims)(players, BED.data(5)) > 0.85
        assert ndcg()(players, BED.data(5)) < 0.6


def test_a_students_words_are_those_of_its_tokenizer() -> None:
    student = BED.players["student"](0)
    assert student.tokenizer("w0 w399 strange")["input_ids"] == [2, 401, 1]
    teacher = BED.players["teacher"](0)
    weights = [sum(p.numel() for p in net.parameters()) for net in (student, teacher)]
    assert weights[0] < weights[1] / 10
    rows = Batch({"tokens": torch.tensor([[2, 401]]), "length": torch.tensor([2])})
    assert not torch.equal(student(rows, WANT)["embedding"], BED.players["student"](1)(rows, WANT)["embedding"])
