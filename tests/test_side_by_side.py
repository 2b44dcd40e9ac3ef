"""Teacher and student side by side: each answer is what the bare model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from limbeck.adapters.sentence import Sentence, encode
from limbeck.adapters.source import open_player
from limbeck.adapters.store import save_player
from limbeck.errors import BadData
from limbeck.side_by_side import lines, side_by_side
from tests.adapters import test_vision_language, tiny


def run(path: Path, kind: str, teacher: str = "") -> Path:
    tiny.write(kind, path / "student", seed=1)
    (path / "run.json").write_text(json.dumps({"players": {"teacher": teacher} if teacher else {}}))
    return path


def test_language_models_continue_a_prompt_as_transformers_does(tmp_path: Path) -> None:
    teacher = tiny.write("gpt2", tmp_path / "teacher")
    hint, ask = side_by_side(run(tmp_path / "run", "gpt2", str(teacher)))
    said = ask("the cat sat")
    assert hint == "a prompt" and list(said) == ["teacher", "student"]
    for who, place in (("teacher", teacher), ("student", tmp_path / "run" / "student")):
        model = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        coded = tokenizer("the cat sat", return_tensors="pt")
        n = coded["input_ids"].shape[1]
        out = model.generate(**coded, max_new_tokens=64 - n, do_sample=False, pad_token_id=0,
                             suppress_tokens=[*range(len(tokenizer), 400)])  # fmt: skip
        assert said[who] == tokenizer.decode(out[0, n:], skip_special_tokens=True).strip()


def test_classifiers_name_the_class_and_how_sure_they_are(tmp_path: Path) -> None:
    hint, ask = side_by_side(run(tmp_path, "bert"))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "student")
    for text in ("the cat sat", "a quick brown fox jumps", "42"):
        with torch.no_grad():
            p = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        assert ask(text) == {"student": f"LABEL_{int(p.argmax())} ({float(p.max()):.0%})"}
    assert hint == "a text to classify"


def test_embedders_compare_two_sentences(tmp_path: Path) -> None:
    bare: Any = open_player(tiny.write("bert-bare", tmp_path / "bare"))
    net = Sentence(bare.model, bare.tokenizer).eval()
    save_player(net, tmp_path / "student")
    (tmp_path / "run.json").write_text("{}")
    hint, ask = side_by_side(tmp_path)
    a, b = encode(net, ["the cat sat", "the dog sat"]).detach().double()
    expected = float(a @ b / a.norm() / b.norm())
    assert "|" in hint and ask("the cat sat | the dog sat") == {"student": f"cosine {expected:.3f}"}
    assert ask("the cat|the cat") == {"student": "cosine 1.000"}


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"is not a run directory: it has no run\.json"):
        side_by_side(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BadData, match="has no student yet; finish it with --resume"):
        side_by_side(tmp_path)


def test_encoder_decoders_answer_a_source_as_transformers_does(tmp_path: Path) -> None:
    tiny.write("bart", tmp_path / "student", seed=2)
    (tmp_path / "run.json").write_text("{}")
    hint, ask = side_by_side(tmp_path)
    bare = transformers.BartForConditionalGeneration.from_pretrained(tmp_path / "student").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "student")
    said = bare.generate(
        **tokenizer(["the cat sat"], return_tensors="pt"), do_sample=False, num_beams=1, max_length=128
    )
    assert hint == "a source text"
    assert ask("the cat sat") == {"student": tokenizer.decode(said[0], skip_special_tokens=True).strip()}


def test_vision_language_models_are_shown_a_picture_or_none(tmp_path: Path) -> None:
    test_vision_language.write(tmp_path / "student", seed=1)
    (tmp_path / "run.json").write_text("{}")
    test_vision_language.draw(tmp_path, 1)
    hint, ask = side_by_side(tmp_path)
    bare = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "student").eval()
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "student")
    words = {"type": "text", "text": "what is it ?"}
    for typed, content, images in (
        (f"{tmp_path / '0.png'} | what is it ?", [{"type": "image"}, words], [Image.open(tmp_path / "0.png")]),
        ("what is it ?", [words], None),
    ):
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        coded = processor(text=text, images=images, return_tensors="pt")
        said = bare.generate(**coded, do_sample=False, max_new_tokens=128)[0, coded["input_ids"].shape[1] :]
        assert ask(typed) == {"student": processor.tokenizer.decode(said, skip_special_tokens=True).strip()}
    assert hint == "a prompt, or the path of a picture, | and a prompt"


def test_a_student_that_answers_no_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, "gpt2")
    monkeypatch.setattr("limbeck.side_by_side.ASK", {})
    with pytest.raises(BadData, match="a student of kind CausalLM does not answer text"):
        side_by_side(tmp_path)


def test_every_question_gives_a_line_a_model_and_empty_ones_none() -> None:
    asked: list[str] = []

    def ask(text: str) -> dict[str, str]:
        asked.append(text)
        return {"teacher": text.upper(), "student": text}

    said = list(lines(ask, iter(["one\n", "   \n", "", " two "])))
    assert asked == ["one", "two"]
    assert said == [" teacher: ONE", " student: one", " teacher: TWO", " student: two"]


def test_students_stand_in_evaluation_mode(tmp_path: Path) -> None:
    # GPT-2 has dropout 0.1: a model in training mode would not say the same twice
    _, ask = side_by_side(run(tmp_path, "gpt2"))
    assert len({ask("the quick brown")["student"] for _ in range(3)}) == 1
    assert any(isinstance(m, nn.Dropout) for m in open_player(tmp_path / "student").modules())
