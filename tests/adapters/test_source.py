"""What `--teacher` and `--student` accept: directories become the right net, and bad weights are refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.data import Records
from limbeck.adapters.encoder import Encoder
from limbeck.adapters.modules import Plain
from limbeck.adapters.seq2seq import Seq2Seq
from limbeck.adapters.source import open_player, read_for
from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue, BadWeights, UnknownName
from tests.adapters import tiny
from tests.conftest import Net

KINDS = {"gpt2": CausalLM, "qwen2": CausalLM, "t5": Seq2Seq, "bert": Encoder, "bert-mlm": Encoder, "bert-bare": Encoder}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        tiny.write(kind, place / kind)
    return place


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Path:
    """A model that a test may damage."""
    return Path(shutil.copytree(home / "gpt2", tmp_path / "gpt2"))


def rows() -> Batch:
    tokens = torch.randint(5, 120, (3, 9), generator=torch.Generator().manual_seed(0))
    length = torch.tensor([9, 5, 7])
    return Batch({"tokens": tokens, "length": length, "source": tokens.flip(1), "source_length": length})


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_becomes_the_net_of_its_architecture(home: Path, kind: str) -> None:
    net = open_player(home / kind)
    assert type(net) is KINDS[kind] and net.path == home / kind and not net.training


@torch.no_grad()
def test_an_encoder_answers_what_transformers_computes(home: Path) -> None:
    reference = transformers.BertForSequenceClassification.from_pretrained(home / "bert").eval()
    answers = open_player(home / "bert")(
        rows(), frozenset({"logits", "features", "hidden", "tap:bert.encoder.layer.1"})
    )
    # Row by row without padding: what the mask must make of the padded batch.
    for i, n in enumerate(rows().length.tolist()):
        out = reference(rows().tokens[i : i + 1, :n], output_hidden_states=True)
        torch.testing.assert_close(answers["logits"][i], out.logits[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(answers["hidden"][i, :n], out.hidden_states[-1][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            answers["tap:bert.encoder.layer.1"][i, :n], out.hidden_states[2][0], atol=1e-5, rtol=0
        )
    torch.testing.assert_close(reference.classifier(answers["features"]), answers["logits"])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["t5", "bert-mlm"])
def test_the_head_makes_the_logits(home: Path, kind: str) -> None:
    answers = open_player(home / kind)(rows(), frozenset({"logits", "head"}))
    torch.testing.assert_close(answers["head"].logits(), answers["logits"])


@torch.no_grad()
def test_an_encoder_decoder_predicts_the_next_token(home: Path) -> None:
    reference = transformers.T5ForConditionalGeneration.from_pretrained(home / "t5").eval()
    logits = open_player(home / "t5")(rows(), frozenset({"logits"}))["logits"]
    n = 5
    out = reference(input_ids=rows().source[1:2, :n], decoder_input_ids=rows().tokens[1:2])
    torch.testing.assert_close(logits[1], out.logits[0, :, : logits.shape[-1]], atol=1e-4, rtol=0)


@torch.no_grad()
def test_an_image_classifier_normalises_pixels_itself(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    x = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(settings[k])[:, None, None] for k in ("image_mean", "image_std"))
    logits = open_player(tmp_path)(Batch({"x": x}), frozenset({"logits"}))["logits"]
    torch.testing.assert_close(logits, model((x - mean) / std).logits)


def test_rows_of_another_tokenizer_are_refused(home: Path) -> None:
    net = open_player(home / "bert")
    with pytest.raises(BadData, match="token 350 is beyond the vocabulary of 200"):
        net(Batch({"tokens": torch.tensor([[350]]), "length": torch.tensor([1])}), frozenset({"logits"}))


def test_other_sources(home: Path) -> None:
    assert type(open_player("bed:mog8")).__name__ == type(open_player("bed:mog8", seed=1)).__name__
    assert isinstance(open_player("torch.nn:Identity"), Plain)
    # What a factory makes with our own signature is a net already.
    assert isinstance(open_player("tests.conftest:Net"), Net)
    student = open_player("from-teacher:layers=2,width=0.5", teacher=open_player(home / "gpt2"))
    assert student.lm.config.n_layer == 2 and student.lm.config.n_head == 2


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("./nowhere", BadValue, "no model directory './nowhere'; possible: a model directory"),
        ("bed:nope", UnknownName, "unknown bed 'nope'"),
        ("from-teacher:layers=2", BadValue, "needs a teacher"),
        ("from-teacher:layer=2", UnknownName, "did you mean 'layers'"),
        ("from-teacher:layers=two", BadValue, "layers in .* must be int, got 'two'"),
    ],
)
def test_sources_of_no_known_form(home: Path, spec: str, error: type[Exception], message: str) -> None:
    teacher = open_player(home / "gpt2") if "layer=" in spec or "two" in spec else None
    with pytest.raises(error, match=message):
        open_player(spec, teacher=teacher)


def test_a_directory_that_is_spelt_wrong(home: Path) -> None:
    with pytest.raises(BadValue, match=r"did you mean '.*bert-bare'"):
        open_player(home / "bert-bear")


def test_pickled_weights_are_not_opened(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (copied / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadWeights, match=r"pytorch_model.bin is a pickle.*convert it.*save_pretrained"):
        open_player(copied)
    assert not (tmp_path / "ran").exists()


def test_missing_weights(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "modle.safetensors")
    with pytest.raises(BadWeights, match=r"has no model.safetensors; did you mean to rename modle.safetensors"):
        open_player(copied)


@pytest.mark.parametrize("size", [0, 5, 1000, -10])
def test_truncated_weights(copied: Path, size: int) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(BadWeights, match=r"model.safetensors is truncated or no safetensors"):
        open_player(copied)


def test_a_missing_shard_is_named(home: Path, tmp_path: Path) -> None:
    open_player(home / "gpt2").lm.save_pretrained(tmp_path, max_shard_size="40kB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()
    with pytest.raises(BadWeights, match=f"{shards[1].name} is missing"):
        open_player(tmp_path)


def test_weights_that_the_config_does_not_fit(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    lost = weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadWeights, match=r"the weights lack 'transformer.h.1.mlp.c_fc.weight'"):
        open_player(copied)
    save_file(
        {**weights, "transformer.h.1.mlp.c_fc.weight": lost[:, :3].clone()},
        copied / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(BadWeights, match="c_fc"):
        open_player(copied)


def test_weights_that_are_not_finite(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["transformer.ln_f.bias"][3] = float("nan")
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadWeights, match=r"'transformer.ln_f.bias' holds NaN"):
        open_player(copied)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json is broken"),
        ("config.json", '{"model_type": "gpt2"}', "architecture 'nothing'; possible endings"),
        ("config.json", '{"model_type": "mine", "auto_map": {"AutoModel": "m.M"}}', "ships its own Python code"),
        ("tokenizer.json", "{", "no readable tokenizer"),
    ],
)
def test_other_broken_files(copied: Path, file: str, content: str, message: str) -> None:
    (copied / file).write_text(content)
    with pytest.raises(BadWeights, match=message):
        open_player(copied)


def test_a_net_says_which_rows_it_reads(home: Path) -> None:
    records = Records(datasets.Dataset.from_dict({"text": ["the cat"], "label": [1]}))
    text = {"tokens", "length", "y"}
    assert set(read_for(open_player(home / "bert"), records).take(torch.tensor([0]))) == text
    assert {"tokens", "mask", "prompt"} < set(read_for(open_player(home / "gpt2"), records).take(torch.tensor([0])))
    pairs = Records(datasets.Dataset.from_dict({"source": ["the cat"], "target": ["the dog"]}))
    assert {"source", "source_length", "tokens", "mask"} < set(
        read_for(open_player(home / "t5"), pairs).take(torch.tensor([0]))
    )
