"""Encoders and encoder-decoders: every answer against the bare transformers model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from limbeck.adapters.data import open_data
from limbeck.adapters.encoder import Encoder, last_input, seen
from limbeck.adapters.seq2seq import Seq2Seq
from limbeck.adapters.source import open_player, read_for
from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue, BadWeights, UnknownName
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


# -- encoder-decoders -------------------------------------------------------------------------------------------------


def test_an_encoder_decoder_answers_as_the_bare_model_does(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("t5", tmp_path)).eval()
    bare = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    lines = [{"source": a, "target": b} for a, b in zip(TEXTS, reversed(TEXTS), strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch = Batch(read_for(net, open_data(tmp_path / "rows.jsonl")).take(torch.arange(3)))
    assert isinstance(net, Seq2Seq) and batch["tokens"][:, 0].eq(net.start).all()
    for i in range(3):  # the bare model on one row at a time, so that there is no padding
        n, m = int(batch["source_length"][i]), int(batch["length"][i])
        with torch.no_grad():
            out = bare(input_ids=batch["source"][i : i + 1, :n], decoder_input_ids=batch["tokens"][i : i + 1, :m])
            answers = net(batch, frozenset({"logits", "head", "hidden", "encoded"}))
        torch.testing.assert_close(answers["logits"][i, :m], out.logits[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(answers["head"].logits()[i, :m], out.logits[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(answers["encoded"][i, :n], out.encoder_last_hidden_state[0], atol=1e-4, rtol=1e-4)
    assert net(batch, frozenset({"features"})) == {}


def test_the_reference_loss_of_an_encoder_decoder_is_the_librarys(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("t5", tmp_path)).eval()
    bare = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    (tmp_path / "rows.jsonl").write_text(json.dumps({"source": TEXTS[0], "target": TEXTS[1]}) + "\n")
    row = Batch(read_for(net, open_data(tmp_path / "rows.jsonl")).take(torch.arange(1)))
    targets = row["tokens"][row["mask"]]
    with torch.no_grad():
        head = net(row, frozenset({"head"}))["head"].predicting(row["mask"])
        loss = torch.nn.functional.cross_entropy(head.logits(), targets)
        theirs = bare(input_ids=row["source"], labels=targets[None]).loss
    torch.testing.assert_close(loss, theirs)


def test_an_encoder_decoder_without_a_start_is_refused(tmp_path: Path) -> None:
    model = transformers.T5ForConditionalGeneration(tiny.config("t5"))
    model.config.decoder_start_token_id = None
    with pytest.raises(BadValue, match="needs a linear output layer and a decoder_start_token_id"):
        Seq2Seq(model)
