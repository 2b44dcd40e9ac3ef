"""Models in fewer bits and other dtypes: near to the whole ones, frozen, and refused where they cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from limbeck.adapters.source import open_player
from limbeck.batch import Batch
from limbeck.errors import BadValue, UnknownName
from tests.adapters.tiny import write

pytest.importorskip("bitsandbytes", reason="weights in fewer bits need bitsandbytes")


def logits(net: torch.nn.Module) -> torch.Tensor:
    tokens = torch.arange(24).reshape(2, 12) + 20
    with torch.no_grad():
        return net(Batch({"tokens": tokens}), frozenset({"logits"}))["logits"].float()


@pytest.mark.parametrize(("bits", "error"), [(8, 0.05), (4, 0.6)])
def test_fewer_bits_are_near_the_whole_weights(tmp_path: Path, bits: int, error: float) -> None:
    place = write("llama-64", tmp_path / "big")
    whole, light = open_player(str(place)), open_player(f"load:bits={bits}:{place}")
    apart = (logits(light) - logits(whole)).norm() / logits(whole).norm()
    assert 0 < apart < error
    assert light.bits == bits and not any(p.requires_grad for p in light.parameters())
    stored = {p.dtype for name, p in light.named_parameters() if "proj" in name}
    assert stored == {torch.uint8 if bits == 4 else torch.int8}


def test_another_dtype(tmp_path: Path) -> None:
    place = write("llama-64", tmp_path / "big")
    light = open_player(f"load:dtype=bfloat16:{place}")
    assert {p.dtype for p in light.parameters()} == {torch.bfloat16}


def test_changes_of_weights_in_four_bits_learn(tmp_path: Path) -> None:
    place = write("llama-64", tmp_path / "big")
    net = open_player(f"lora:rank=2:load:bits=4:{place}")
    learning = {name for name, p in net.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    out = net(Batch({"tokens": torch.arange(12)[None] + 20}), frozenset({"logits"}))["logits"]
    out.square().mean().backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if name in learning)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("load:bits=3:x", BadValue, "bits must be 4 or 8, got '3'"),
        ("load:dtype=int8:x", BadValue, "dtype must be one of float32, bfloat16, float16, got 'int8'"),
        ("load:bit=4:x", UnknownName, "did you mean 'bits'"),
        ("load:x", BadValue, "load:bits=4:DIR"),
    ],
)
def test_what_is_not_possible(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_player(spec)


def test_a_student_of_few_bits_is_refused_but_for_changes(tmp_path: Path) -> None:
    from limbeck.api import distill

    place = write("llama-64", tmp_path / "big")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(f'{{"prompt": "how much is {i} plus 1 ? ", "completion": "it is {i + 1}"}}\n' for i in range(20))
    )
    how = {"teacher": f"load:bits=4:{place}", "data": str(rows), "set": {"distill.steps": 2, "distill.batch_size": 4}}
    with pytest.raises(BadValue, match="the student learns, and weights of 4 bits do not; give lora:load:bits=4"):
        distill("kd", student=f"load:bits=4:{place}", out=tmp_path / "a", **how)
    done = distill("kd", student=f"lora:rank=2:load:bits=4:{place}", out=tmp_path / "b", **how)
    assert open_player(str(done / "student")).path == done / "student"
    with pytest.raises(BadValue, match="whole weights"):
        distill("kd", student="from-teacher:layers=2", out=tmp_path / "c", **how)
