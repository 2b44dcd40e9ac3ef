"""Products on disk: what is saved answers alike in the bare ecosystem, in a process that knows nothing of limbeck."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from limbeck.adapters.lora import with_lora
from limbeck.adapters.modules import Plain
from limbeck.adapters.source import open_player
from limbeck.adapters.store import save_player
from limbeck.adapters.surgery import shrink
from limbeck.adapters.weights import wrapped
from limbeck.batch import Batch
from limbeck.errors import BadValue, BadWeights
from tests.adapters import tiny

TEXT = "the cat sat"
# What anyone would write to use the saved models.
BARE = """
import sys, torch, transformers
from safetensors.torch import save_file
answers = {}
for place, kind in (pair.split("=") for pair in sys.argv[2:]):
    model = getattr(transformers, kind).from_pretrained(place).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    coded = tokenizer("the cat sat", return_tensors="pt")
    if model.config.is_encoder_decoder:
        coded = {"input_ids": coded["input_ids"], "decoder_input_ids": coded["input_ids"]}
    with torch.no_grad():
        answers[place] = model(**coded).logits
save_file(answers, sys.argv[1])
assert not any(name.startswith("limbeck") for name in sys.modules)
"""
AUTO = {
    "gpt2": "AutoModelForCausalLM",
    "qwen2": "AutoModelForCausalLM",
    "t5": "AutoModelForSeq2SeqLM",
    "bert": "AutoModelForSequenceClassification",
}


def rows(net: nn.Module) -> Batch:
    tokens = net.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    length = torch.tensor([tokens.shape[1]])
    return Batch({"tokens": tokens, "length": length, "source": tokens, "source_length": length})


def logits(net: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return net(rows(net), frozenset({"logits"}))["logits"]


def test_students_answer_alike_in_a_fresh_process(tmp_path: Path) -> None:
    mine = {}
    for kind in AUTO:
        student = shrink(open_player(tiny.write(kind, tmp_path / "teacher" / kind)), layers=2)
        mine[kind] = logits(student)
        save_player(student, tmp_path / kind)
    command = [sys.executable, "-c", BARE, "out.safetensors", *(f"{kind}={auto}" for kind, auto in AUTO.items())]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, env={"OMP_NUM_THREADS": "1"})
    theirs = load_file(tmp_path / "out.safetensors")
    for kind, expected in mine.items():
        torch.testing.assert_close(theirs[kind][..., : expected.shape[-1]], expected, atol=1e-6, rtol=0)


def test_what_was_there_is_replaced_and_a_failed_save_leaves_it(tmp_path: Path) -> None:
    net = open_player(tiny.write("gpt2", tmp_path / "a"))
    (tmp_path / "a" / "LICENSE").write_text("free")
    place = save_player(net, tmp_path / "runs" / "b")
    save_player(net, place)
    assert (place / "LICENSE").read_text() == "free"
    before = {p.name: p.read_bytes() for p in place.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    net.tokenizer.save_pretrained = fail
    with pytest.raises(OSError, match="disk full"):
        save_player(net, place)
    assert {p.name: p.read_bytes() for p in place.iterdir()} == before
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["b"]


def test_any_module_is_saved_as_safetensors(tmp_path: Path) -> None:
    net = Plain(nn.Linear(3, 2))
    save_player(net, tmp_path / "linear")
    assert load_file(tmp_path / "linear" / "model.safetensors").keys() == {"weight", "bias"}


@pytest.mark.parametrize("kind", AUTO)
def test_lora_starts_as_the_teacher_learns_few_weights_and_merges(tmp_path: Path, kind: str) -> None:
    net = open_player(tiny.write(kind, tmp_path / "base"))
    before = logits(net)
    with_lora(net, rank=2)
    torch.testing.assert_close(logits(net), before)
    learns = [n for n, p in net.named_parameters() if p.trainable]
    assert learns and all("lora_" in n or "classifier" in n for n in learns)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    after = logits(net)
    assert (after - before).abs().max() > 1e-3
    save_player(net, tmp_path / "out")
    # Saving changes nothing; the merged model and base plus adapter answer alike.
    assert torch.equal(logits(net), after)
    torch.testing.assert_close(logits(open_player(tmp_path / "out")), after, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(open_player(tmp_path / "out" / "adapter")), after, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_the_adapter_opens_in_bare_peft(tmp_path: Path) -> None:
    net = with_lora(open_player(tiny.write("qwen2", tmp_path / "base")), rank=2)
    with torch.no_grad():
        for p in net.parameters():
            if p.trainable:
                p.add_(0.1)
    save_player(net, tmp_path / "out")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").eval()
    mine = logits(net)
    with torch.no_grad():
        torch.testing.assert_close(theirs(rows(net).tokens).logits[..., : mine.shape[-1]], mine, atol=1e-6, rtol=0)


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    net = with_lora(open_player(tiny.write("qwen2", tmp_path / "base")), rank=2)
    save_player(net, tmp_path / "out")
    place = tmp_path / "out" / "adapter" / "adapter_model.safetensors"
    weights = load_file(place)
    save_file({k: v[..., :1].contiguous() for k, v in weights.items()}, place)
    with pytest.raises(BadWeights, match="does not fit its base"):
        open_player(place.parent)
    place.rename(place.with_suffix(".bin"))
    with pytest.raises(BadWeights, match="is a pickle"):
        open_player(place.parent)
    with pytest.raises(BadValue, match="LoRA"):
        with_lora(open_player(tmp_path / "base"), targets=("nothing",))
    with pytest.raises(BadValue, match="needs a net of a transformers model"):
        with_lora(Plain(nn.Linear(2, 2)))


def test_two_adapters_of_one_seed_are_equal(tmp_path: Path) -> None:
    place = tiny.write("qwen2", tmp_path / "base")
    one, two = (with_lora(open_player(place), rank=2, seed=3) for _ in range(2))
    for a, b in zip(wrapped(one).parameters(), wrapped(two).parameters(), strict=True):
        assert torch.equal(a, b)
