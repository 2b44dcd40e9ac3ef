"""The grammar against itself by brute force, and the shipped masked model against the grammar."""

from __future__ import annotations

import functools

import pytest
import torch
from scipy.stats import chisquare

from limbeck.adapters.cloze import Cloze
from limbeck.adapters.encoder import Encoder
from limbeck.assets.build_cloze import excess
from limbeck.batch import Batch
from limbeck.beds import cloze
from limbeck.beds.cloze import CLASSES, CUES, LABEL, PROMPTS, TOPICS, VOCABULARY, Oracle, answers, bed, texts
from limbeck.errors import BadData, Mismatch, UnknownName
from limbeck.rng import Rng

WANT = frozenset({"mask_probs"})


@functools.cache
def teacher() -> Cloze:
    return bed.players["teacher"](0)  # type: ignore[return-value]


def test_rows() -> None:
    """As many of each class, 16 to learn from; no text in two splits; another seed, other texts."""
    data = bed.data(0)
    counts = {s: torch.bincount(t.columns["y"]).tolist() for s, t in data.items()}  # type: ignore[attr-defined]
    assert counts == {"train": [16] * 3, "valid": [16] * 3, "test": [100] * 3}
    seen = [set(t.columns["text"]) for t in data.values()]  # type: ignore[attr-defined]
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert bed.data(0)["train"].fingerprint == data["train"].fingerprint != bed.data(1)["train"].fingerprint


def test_words_are_drawn_from_the_topic() -> None:
    """The first noun of 20,000 texts about one topic has the frequencies of the rule (chi-squared)."""
    n = 20_000
    written = texts(Rng(("test",), torch.arange(n)), torch.full((n,), 5))
    seen = torch.bincount(torch.tensor([int(t.split()[1][4:]) for t in written]), minlength=cloze.NOUNS)
    p = cloze._rules()["N"][5].double().softmax(0)
    often = p * n > 10
    pooled = [torch.cat((v[often], v[~often].sum()[None])).numpy() for v in (seen.double(), p * n)]
    assert chisquare(*pooled).pvalue > 1e-3


def test_the_oracle_is_bayes() -> None:
    """By brute force: the product of the words' probabilities under each topic, made to sum to 1, summed in a class."""
    text = texts(Rng(("test",), torch.arange(1)), torch.tensor([2]))[0]
    likelihood = torch.ones(TOPICS, dtype=torch.double)
    for word in text.replace("the ", "").replace(". ", "").split()[:-1]:
        kind = "N" if word.startswith("noun") else "V"
        likelihood *= cloze._rules()[kind][:, int(word[4:])].double().exp()
    said = Oracle()({"text": [text]}, frozenset({"logits"}))["logits"][0].exp().double()
    by_class = torch.zeros(CLASSES, dtype=torch.double).index_add(0, LABEL, likelihood / likelihood.sum())
    torch.testing.assert_close(said, by_class, atol=1e-5, rtol=1e-4)


def test_the_oracle_is_calibrated_and_nearly_right() -> None:
    """Over many texts it is right as often as it says (three standard errors), about nine times in ten."""
    columns = {k: [] for k in ("text", "y")}
    for seed in range(4):
        for k, v in bed.data(seed)["test"].columns.items():  # type: ignore[attr-defined]
            columns[k] += list(v)
    p = Oracle()(columns, frozenset({"logits"}))["logits"].exp()
    confidence, said = p.max(-1)
    right = (said == torch.tensor(columns["y"])).float()
    error = (confidence * (1 - confidence)).mean().sqrt() / len(right) ** 0.5
    assert abs(float(right.mean() - confidence.mean())) < 3 * error
    assert 0.85 < right.mean() < 0.97


def test_unknown_words_are_refused() -> None:
    with pytest.raises(UnknownName, match="zebra"):
        Oracle()({"text": ["the zebra sleeps ."]}, frozenset({"logits"}))


def test_answers_do_not_name_a_class() -> None:
    """No cue separates the classes: from an answer the class of the topic is guessed right 2 times in 3 at best."""
    for cue in range(len(CUES)):
        p = answers(torch.arange(TOPICS), cue)
        torch.testing.assert_close(p.sum(-1), torch.ones(TOPICS))
        joint = torch.zeros(CLASSES, cloze.ANSWERS).index_add(0, LABEL, p / TOPICS)
        assert joint.max(0).values.sum() < 0.67


@pytest.mark.parametrize("cue", range(len(CUES)))
def test_the_model_knows_the_grammar(cue: int) -> None:
    """Its answers are near the true ones: at most 0.1 nats more, where the answers have about one."""
    assert excess(teacher().encoder.model, cue) < 0.1


def test_the_black_box_answers_probabilities_and_counts() -> None:
    """What it puts into the gap is a distribution over the vocabulary, mostly over the words of the cue."""
    box, data = bed.players["teacher"](1), bed.data(0)["test"]
    filled = [PROMPTS[3].format(text=t, mask=box.mask) for t in data.columns["text"][:5]]  # type: ignore[attr-defined]
    p = box(Batch({"text": filled}), WANT)["mask_probs"]
    assert p.shape == (5, len(VOCABULARY)) and box.asked == 5
    torch.testing.assert_close(p.sum(-1), torch.ones(5))
    assert p[:, [i for i, w in enumerate(VOCABULARY) if w.startswith(CUES[3]) and w != CUES[3]]].sum(-1).min() > 0.9
    short = Cloze(box.encoder, rows=2)  # type: ignore[arg-type]
    torch.testing.assert_close(short(Batch({"text": filled}), WANT)["mask_probs"], p)
    assert box(Batch({"text": filled}), frozenset({"logits"})) == {}


def test_texts_without_a_gap_are_refused() -> None:
    for text, gaps in (("the noun1 .", 0), ("<mask> <mask> .", 2)):
        with pytest.raises(BadData, match=f"{gaps} gaps"):
            teacher()(Batch({"text": [text]}), WANT)
    with pytest.raises(BadData, match="context of 32"):
        teacher()(Batch({"text": ["the " * 40 + "<mask>"]}), WANT)


def test_models_without_a_gap_are_refused() -> None:
    class NoGap:
        mask_token = None

    with pytest.raises(Mismatch, match="no mask token"):
        Cloze(Encoder(teacher().encoder.model, NoGap()))
