"""A draft distilled for its target on the user's own directories: DistillSpec, then speculative decoding with both."""

from __future__ import annotations

import json
import subprocess
import sys
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

BARE = """
import json, sys
sys.modules["limbeck"] = None  # whoever imports it fails
import torch, transformers
target, draft, asked, how = json.loads(sys.argv[1])
lm, assistant = (transformers.AutoModelForCausalLM.from_pretrained(place).double() for place in (target, draft))
ids = torch.tensor([asked])
said = lm.generate(ids, attention_mask=torch.ones_like(ids), assistant_model=assistant, do_sample=False, **how)
print(json.dumps(said[0].tolist()))
"""


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
    for page in (run / "student" / "README.md", run / "report.html"):
        text = page.read_text()
        assert all(f"{of} of the teacher with it as a draft" in text for of in ("tokens a call", "speed-up"))
        assert "tokens that the teacher would keep of a draft" in text


def test_a_distilled_draft_assists_its_target_where_limbeck_is_not(tmp_path: Path) -> None:
    target = tiny.write("qwen2", tmp_path / "target")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"the cat {i}"}) + "\n" for i in range(8)))
    run = distill(
        "distillspec", teacher=str(target), student="from-teacher:layers=3", data=str(tmp_path / "rows.jsonl"),
        out=tmp_path / "run", steps=1, batch_size=4, set={"distill.student.batch.on_policy.max_new_tokens": 4},
    )  # fmt: skip
    nets = [open_player(place).eval().double() for place in (target, run / "student")]
    asked = nets[0].tokenizer("how much is 12 plus")["input_ids"]
    said = speculate(
        *(Player("it", frozen(), net) for net in nets), torch.tensor([asked]), torch.tensor([len(asked)]),
        Rng(("t",), torch.arange(1)), temperature=0.0, max_new_tokens=12,
    )  # fmt: skip
    # the output matrix is wider than the tokenizer, which bare transformers does not look at
    how = {"max_new_tokens": 12, "eos_token_id": nets[0].eos, "suppress_tokens": [*range(nets[0].vocab, 400)]}
    given = json.dumps([str(target), str(run / "student"), asked, how | {"pad_token_id": nets[0].pad}])
    bare = subprocess.run([sys.executable, "-c", BARE, given], capture_output=True, text=True, cwd=tmp_path)
    assert bare.returncode == 0, bare.stderr
    assert json.loads(bare.stdout) == said.tokens[0].tolist() and said.kept > 0


def _teacher_data() -> object:
    from limbeck.parts.rollout import mixed, rollout

    return mixed(on_policy=rollout(max_new_tokens=6).on(student="teacher"), share=1.0)
