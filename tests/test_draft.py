"""A draft distilled for its target on the user's own directories: DistillSpec, then speculative decoding with both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from limbeck import distill
from limbeck.adapters.source import open_player
from limbeck.parts.speculative import speculate
from limbeck.players import Player
from limbeck.rng import Rng
from limbeck.roles import frozen
from tests.adapters import tiny


@pytest.mark.parametrize("data", ["on-policy", "teacher-data"])
def test_a_draft_of_ones_own_target(tmp_path: Path, data: str) -> None:
    target = tiny.write("qwen2", tmp_path / "target")
    lines = [{"prompt": f"how much is {i} plus {i % 3} ?", "completion": " 42"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch = "distill.student.batch.on_policy"
    speaker = {} if data == "on-policy" else {"distill.student.batch": _teacher_data()}
    run = distill(
        "distillspec", teacher=str(target), student="from-teacher:layers=1", data=str(tmp_path / "rows.jsonl"),
        out=tmp_path / "run", steps=2, batch_size=4, set=speaker or {f"{batch}.max_new_tokens": 6},
    )  # fmt: skip
    bare = transformers.AutoModelForCausalLM.from_pretrained(run / "student")
    ours = open_player(run / "student")
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(
            bare(tokens).logits[..., : ours.vocab],
            ours({"tokens": tokens, "cache": None}, frozenset({"logits"}))["logits"],
        )
    players = [Player(n, frozen(), open_player(p).eval()) for n, p in (("target", target), ("draft", run / "student"))]
    said = speculate(*players, tokens, torch.tensor([4]), Rng(("t",), torch.arange(1)), block=3, max_new_tokens=9)
    assert said.calls >= 1 and 4 < int(said.length) <= 13


def _teacher_data() -> object:
    from limbeck.parts.rollout import mixed, rollout

    return mixed(on_policy=rollout(max_new_tokens=6).on(student="teacher"), share=1.0)
