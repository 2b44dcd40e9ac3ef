"""Recipes that build their student of the teacher: with a teacher alone, of other architectures than their beds'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from limbeck.api import distill
from tests.adapters import tiny

SAID = ["the cat sat on the mat", "the dog sat on the log", "it is 42 , said the user", "a quick brown fox jumps"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"prompt": f"{said} {k}", "completion": f"{said} : {k}"} for k in range(10) for said in SAID]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize(
    ("key", "kind", "layers", "set"),
    [
        ("teacher-free-truncation", "gpt2", 2, {}),
        ("self-data-distill", "qwen2", 3, {"rewrite.rows.said.max_new_tokens": 4, "rewrite.rows.request": "?"}),
    ],
)
def test_a_teacher_is_enough(tmp_path: Path, rows: Path, key: str, kind: str, layers: int, set: dict) -> None:
    teacher = tiny.write(kind, tmp_path / "teacher")
    run = distill(key, teacher=str(teacher), data=str(rows), out=str(tmp_path / "run"), steps=2, batch_size=4, set=set)
    bare = transformers.AutoModelForCausalLM.from_pretrained(run / "student")
    assert bare.config.num_hidden_layers == layers
    assert transformers.AutoTokenizer.from_pretrained(run / "student")("the cat")["input_ids"]
    with torch.no_grad():
        assert bare(torch.arange(5, 14)[None]).logits.isfinite().all()
    # teacher, student before and after are examined on held-out rows
    assert "before" in (run / "report.md").read_text()
