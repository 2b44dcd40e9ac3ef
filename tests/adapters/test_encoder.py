"""Encoders: every answer against the bare transformers model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from limbeck.adapters.encoder import Encoder, last_input, seen
from limbeck.adapters.source import open_player
from limbeck.batch import Batch
from limbeck.errors import BadData, BadWeights, UnknownName
from limbeck.kernels.head import TokenHead
from tests.adapters import tiny

TEXTS = ["the cat sat on the mat", "a fox", "how much is 12 plus 30 ?"]


def batch_of(tokenizer: Any) -> tuple[Batch, Any]:
    coded = tokenizer(TEXTS, return_tensors="pt", padding=True)
    return Batch({"tokens": coded["input_ids"], "length": coded["attention_mask"].sum(1)}), coded


def test_a_classifiers_answers_are_those_of_the_bare_model(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("bert", tmp_path)).eval()
    bare = transformers.BertForSequenceClassification.from_pretrained(tmp_path).eval()
    batch, coded = batch_of(net.tokenizer)
    with torch.no_grad():
        answers = net(batch, frozenset({"logits", "features", "hidden", "tap:bert.encoder.layer.1"}))
        out = bare(**coded, output_hidden_states=True)
        torch.testing.assert_close(answers["logits"], out.logits)
        torch.testing.assert_close(answers["hidden"], out.hidden_states[-1])
        torch.testing.assert_close(bare.classifier(answers["features"]), out.logits)
        torch.testing.assert_close(answers["tap:bert.encoder.layer.1"], out.hidden_states[2])
    assert net.classes == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2} and net.context == 64


def test_only_what_is_wanted_is_answered(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("bert", tmp_path)).eval()
    batch, _ = batch_of(net.tokenizer)
    assert net(batch, frozenset({"features"})).keys() == {"features"}
    assert net(batch, frozenset({"velocity"})) == {}
    with pytest.raises(UnknownName, match="submodule"):
        net(batch, frozenset({"tap:no.such.layer"}))


def test_a_masked_language_model_answers_a_head_that_makes_its_logits(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("bert-mlm", tmp_path)).eval()
    bare = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()
    batch, coded = batch_of(net.tokenizer)
    with torch.no_grad():
        answers = net(batch, frozenset({"head", "logits", "features"}))
        out = bare(**coded, output_hidden_states=True)
    assert isinstance(answers["head"], TokenHead) and not net.classes
    torch.testing.assert_close(answers["head"].logits(), out.logits)
    torch.testing.assert_close(answers["logits"], out.logits)
    torch.testing.assert_close(answers["features"], out.hidden_states[-1][:, 0])


def test_segments_of_pairs_reach_the_model(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("bert", tmp_path)).eval()
    coded = net.tokenizer(["the cat"], ["the dog sat"], return_tensors="pt")
    bare = transformers.BertForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = Batch({"tokens": coded["input_ids"], "length": coded["attention_mask"].sum(1),
                   "types": coded["token_type_ids"]})  # fmt: skip
    assert coded["token_type_ids"].max() == 1
    with torch.no_grad():
        with_types = net(batch, frozenset({"logits"}))["logits"]
        torch.testing.assert_close(with_types, bare(**coded).logits)
        plain = Batch({k: c for k, c in batch.columns.items() if k != "types"})
        assert not torch.allclose(net(plain, frozenset({"logits"}))["logits"], with_types)


def test_padding_is_not_seen() -> None:
    length = torch.tensor([0, 2, 4])
    expected = np.arange(4)[None] < length.numpy()[:, None]
    assert np.array_equal(seen(torch.zeros(3, 4), length).numpy(), expected)


def test_tokens_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("bert", tmp_path)).eval()
    with pytest.raises(BadData, match="token 200 is beyond the vocabulary of 200: another tokenizer"):
        net(Batch({"tokens": torch.tensor([[1, 200]]), "length": torch.tensor([2])}), frozenset({"logits"}))


def test_images_are_normalised_as_the_preprocessor_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=2, num_labels=4,
                                    num_attention_heads=2, intermediate_size=32)  # fmt: skip
    bare = transformers.ViTForImageClassification(config).eval()
    bare.save_pretrained(tmp_path)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    net: Any = open_player(tmp_path).eval()
    x = torch.rand(5, 3, 8, 8)
    pixels = torch.from_numpy((x.numpy() - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))).float()
    with torch.no_grad():
        answers = net(Batch({"x": x}), frozenset({"logits", "features"}))
        torch.testing.assert_close(answers["logits"], bare(pixel_values=pixels).logits)
        torch.testing.assert_close(bare.classifier(answers["features"]), answers["logits"])
    assert isinstance(net, Encoder) and net.tokenizer is None


def test_hooks_that_keep_an_input_are_removed() -> None:
    layer = torch.nn.Linear(2, 2)
    with last_input(layer) as kept:
        layer(torch.ones(1, 2))
        layer(torch.zeros(1, 2))
    assert len(kept) == 1 and kept[0].tolist() == [[0.0, 0.0]] and not layer._forward_pre_hooks
    with pytest.raises(ValueError, match="stop"), last_input(layer):
        raise ValueError("stop")
    assert not layer._forward_pre_hooks
    with last_input(None) as nothing:
        assert nothing == []


def test_an_encoder_without_a_head_is_opened_by_its_bare_name(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("bert-bare", tmp_path)).eval()
    bare = transformers.BertModel.from_pretrained(tmp_path).eval()
    batch, coded = batch_of(net.tokenizer)
    with torch.no_grad():
        answers = net(batch, frozenset({"features", "logits", "head"}))
        torch.testing.assert_close(answers["features"], bare(**coded).last_hidden_state[:, 0])
    assert answers.keys() == {"features"}


def test_an_architecture_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    tiny.write("bert", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, said in (("BertForPoetry", "'BertForPoetry'"), (None, "'nothing'")):
        config["architectures"] = [name] if name else None
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(BadWeights, match=f"names the architecture {said}; possible endings: ForCausalLM"):
            open_player(tmp_path)
