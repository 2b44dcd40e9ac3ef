"""Vision-language models against transformers' own processor, forward and `generate`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from limbeck import distill
from limbeck.adapters.cache import row_keys
from limbeck.adapters.data import hold_out, open_data
from limbeck.adapters.source import open_player, read_for
from limbeck.adapters.vision_language import VisionLanguage
from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue, BadWeights
from limbeck.parts.policy import logp_of_tokens, recorded
from limbeck.parts.rollout import rollout, sample
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen
from tests.adapters import tiny

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FEATURES = 16  # of a picture of 16 x 16 pixels in patches of 4


def write(directory: Path, seed: int = 0, template: str = PARTS) -> Path:
    """A tiny random LLaVA with its processor; weights drawn wide, so that pictures and words tell."""
    tokenizer = tiny.byte_tokenizer(template or None)
    tokenizer.model_max_length = 256
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, image_size=16,
                                           num_attention_heads=2, patch_size=4)  # fmt: skip
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=vision, text_config=text, image_token_index=processor.image_token_id, vision_feature_layer=-1
        )
    )
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5.0 if p.ndim == 2 else 1.0)
    model.generation_config.pad_token_id = 0
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def draw(folder: Path, n: int = 4) -> list[str]:
    """Pictures of noise, of several shapes and modes."""
    rng = np.random.default_rng(0)
    for i in range(n):
        pixels = rng.integers(0, 256, (10 + 3 * i, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("L" if i == 1 else "RGB").save(folder / f"{i}.png")
    return [f"{i}.png" for i in range(n)]


def data(folder: Path) -> Path:
    """Rows with one, two and no pictures, in each of the ways to say where they stand."""
    a, b, c, d = draw(folder)
    rows: list[dict[str, Any]] = [
        {"image": a, "prompt": "what is it ?", "completion": "a cat"},
        {"images": [b, c], "prompt": "<image> and <image> differ ?", "completion": "the dog sat"},
        {"prompt": "how much is 12 plus 30 ?", "completion": "it is 42"},
        {"image": d, "prompt": "<image> what is it ?", "completion": "the log"},
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seen")
    write(root / "big", 0)
    write(root / "small", 1)
    data(root)
    return root


def batch_of(net: Any, path: Path) -> Batch:
    source = read_for(net, open_data(path))
    return Batch({**source.take(torch.arange(len(source)))})


def test_rows_are_what_the_processor_makes_of_the_conversation(place: Path) -> None:
    net: Any = open_player(place / "big").eval()
    batch = batch_of(net, place / "rows.jsonl")
    processor = transformers.AutoProcessor.from_pretrained(place / "big")
    asked = [
        ([{"type": "image"}, {"type": "text", "text": "what is it ?"}], ["0.png"], "a cat"),
        ([{"type": "image"}, {"type": "text", "text": " and "}, {"type": "image"},
          {"type": "text", "text": " differ ?"}], ["1.png", "2.png"], "the dog sat"),
        ([{"type": "text", "text": "how much is 12 plus 30 ?"}], [], "it is 42"),
        ([{"type": "image"}, {"type": "text", "text": " what is it ?"}], ["3.png"], "the log"),
    ]  # fmt: skip
    assert isinstance(net, VisionLanguage) and net.features == FEATURES
    assert batch["pixels"].shape == (4, 2, 3, 16, 16) and batch["pixels_length"].tolist() == [1, 2, 0, 1]
    for b, (content, images, answer) in enumerate(asked):
        said = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        text = processor.apply_chat_template(said, tokenize=False)
        pictures = [Image.open(place / image).convert("RGB") for image in images] or None
        made = processor(text=text, images=pictures, return_tensors="pt")
        assert batch["tokens"][b, : batch["length"][b]].tolist() == made["input_ids"][0].tolist()
        if pictures:
            torch.testing.assert_close(batch["pixels"][b, : len(images)], made["pixel_values"])
        told = net.tokenizer.decode(batch["tokens"][b][batch["mask"][b]])
        assert told == f"{answer}<|im_end|>" and not (batch["tokens"][batch["mask"]] == net.picture).any()


def test_answers_are_those_of_the_bare_model_row_by_row(place: Path) -> None:
    net: Any = open_player(place / "big").eval()
    bare = transformers.LlavaForConditionalGeneration.from_pretrained(place / "big").eval()
    batch = batch_of(net, place / "rows.jsonl")
    with torch.no_grad():
        answers = net(batch, frozenset({"logits", "head", "hidden", "tap:model.vision_tower"}))
        for b in range(4):
            n, images = int(batch["length"][b]), int(batch["pixels_length"][b])
            pixels = {"pixel_values": batch["pixels"][b, :images]} if images else {}
            out = bare(input_ids=batch["tokens"][b : b + 1, :n], **pixels)
            torch.testing.assert_close(answers["logits"][b, :n], out.logits[0], atol=1e-4, rtol=1e-4)
    assert answers.keys() == {"logits", "head", "hidden", "tap:model.vision_tower"}


def said_by(net: Any, batch: Batch, **how: Any) -> list[list[int]]:
    tokens, length = sample(
        Player("student", frozen(), net), batch["tokens"], batch["prompt"], batch.rng, given=batch,
        **{"max_new_tokens": 10, "temperature": 0.0} | how,
    )  # fmt: skip
    return [row[p:n] for row, p, n in zip(tokens.tolist(), batch["prompt"].tolist(), length.tolist(), strict=True)]


def test_greedy_tokens_are_those_of_generate(place: Path) -> None:
    net: Any = open_player(place / "big").eval()
    bare = transformers.LlavaForConditionalGeneration.from_pretrained(place / "big").eval()
    batch = batch_of(net, place / "rows.jsonl")
    said = said_by(net, batch)
    for b in range(4):
        n, images = int(batch["prompt"][b]), int(batch["pixels_length"][b])
        pixels = {"pixel_values": batch["pixels"][b, :images]} if images else {}
        out = bare.generate(
            input_ids=batch["tokens"][b : b + 1, :n], max_new_tokens=10, do_sample=False, pad_token_id=0, **pixels
        )
        assert said[b] == out[0, n:].tolist()
    blind = batch.with_(pixels=torch.zeros_like(batch["pixels"]))
    assert said_by(net, blind)[2] == said[2] and said_by(net, blind) != said, "pictures are seen"


def test_rollouts_of_equal_questions_about_other_pictures_differ_and_are_recorded(place: Path) -> None:
    net: Any = open_player(place / "small").eval()
    batch = batch_of(net, place / "rows.jsonl")
    twice = Batch({k: c[[0, 0, 0]] if torch.is_tensor(c) else c[:1] * 3 for k, c in batch.columns.items()})
    other = twice.with_(pixels=torch.cat((twice["pixels"][:2], batch["pixels"][3:])))
    said = said_by(net, other)
    assert said[0] == said[1] and said_by(net, twice)[2] == said[0]
    alone = said_by(net, other.rows(slice(2, 3)))
    assert said[2:] == alone
    players = Players({"student": Player("student", frozen(), net)})
    made = rollout(max_new_tokens=8)(players, replace(batch, rng=Rng(("seen", 0), torch.arange(4))))
    torch.testing.assert_close(
        recorded()(players, made)["logp_old"], logp_of_tokens(players.student, made), atol=1e-5, rtol=1e-5
    )
    drawn = made.with_(tokens=made.tokens.where(~made.mask, net.picture))
    assert net(drawn, frozenset({"logits"}))["logits"].isfinite().all(), "a drawn token of a picture stands for itself"


def test_a_split_and_a_key_know_pictures_by_their_pixels(place: Path) -> None:
    net: Any = open_player(place / "big").eval()
    source = read_for(net, open_data(place / "rows.jsonl"))
    split = hold_out(source, 0.3)
    assert len(split.train) + len(split.held) == 4
    batch, one = source.take(torch.arange(4)), source.take(torch.tensor([0]))
    assert row_keys(batch)[0] == row_keys(one)[0]
    assert row_keys({**one, "pixels": one["pixels"] + 1})[0] != row_keys(one)[0]
    assert set(source.names) == set(batch)


# -- templates and rows -----------------------------------------------------------------------------------------------


def test_a_template_of_plain_texts_gets_marks_in_them(tmp_path: Path) -> None:
    net: Any = open_player(write(tmp_path / "net", template=tiny.CHATML)).eval()
    path = data(tmp_path)
    path.write_text(json.dumps({"image": "0.png", "messages": [
        {"role": "user", "content": "what is it ?"}, {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "sure ?"}, {"role": "assistant", "content": "yes"}]}) + "\n")  # fmt: skip
    row = batch_of(net, path)
    text = net.tokenizer.decode(row["tokens"][0])
    assert text.startswith("<|im_start|>user\n" + "<image>" * FEATURES + "\nwhat is it ?")
    assert net.tokenizer.decode(row["tokens"][0][row["mask"][0]]) == "a cat<|im_end|>yes<|im_end|>"


def test_without_a_template_pictures_stand_before_the_prompt(tmp_path: Path) -> None:
    net: Any = open_player(write(tmp_path / "net", template="")).eval()
    row = batch_of(net, data(tmp_path)).rows(slice(0, 1))
    said = "<image>" * FEATURES + "\nwhat is it ?a cat<|end|>"
    assert net.tokenizer.decode(row["tokens"][0, : row["length"][0]]) == said
    assert net(row, frozenset({"logits"}))["logits"].isfinite().all()


@pytest.mark.parametrize(("row", "reason"), [
    ({"image": "9.png", "prompt": "what ?"}, "row 1: no picture '.*9.png': paths of pictures are taken from"),
    ({"image": "rows.jsonl", "prompt": "what ?"}, "rows.jsonl' is no picture that can be read"),
    ({"image": "0.png", "prompt": "<image> <image> ?"}, "row 1: 1 pictures, and 2 places for them"),
    ({"prompt": "<image> ?"}, "row 1: 0 pictures, and 1 places for them"),
    ({"image": "0.png", "prompt": "what ?", "completion": "<image>"}, "an answer holds a picture"),
])  # fmt: skip
def test_rows_and_pictures_that_disagree_are_refused(
    row: dict[str, str], reason: str, place: Path, tmp_path: Path
) -> None:
    net: Any = open_player(place / "big").eval()
    path = data(tmp_path)
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(BadData, match=reason):
        read_for(net, open_data(path))


def test_tokens_without_their_pictures_are_refused(place: Path) -> None:
    net: Any = open_player(place / "big").eval()
    batch = batch_of(net, place / "rows.jsonl")
    less = batch.with_(tokens=batch.tokens.where(batch.tokens != net.picture, 5))
    with pytest.raises(BadData, match="row 0 of the batch has 1 pictures of 16 features each, and only 0 tokens"):
        net(less, frozenset({"head"}))
    net.features = 8
    with pytest.raises(BadData, match="the model makes 64 features of 4 pictures, its processor writes 8 tokens"):
        net(batch, frozenset({"head"}))


def test_a_server_is_shown_no_pictures(place: Path) -> None:
    with pytest.raises(BadData, match="a model behind a server is not shown pictures"):
        read_for(open_player(place / "big"), open_data(place / "rows.jsonl"), requests=True)


def test_a_directory_without_its_processor_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(BadWeights, match=r"has no (readable )?processor"):
        open_player(tmp_path)


def test_a_processor_that_makes_more_than_pictures_is_refused(place: Path) -> None:
    net: Any = open_player(place / "big")

    class Gridded:
        tokenizer, image_token, image_token_id = net.tokenizer, "<image>", net.picture

        def __call__(self, **given: Any) -> dict[str, Any]:
            return {**net.processor(**given), "image_grid_thw": torch.ones(1, 3)}

    with pytest.raises(BadValue, match="Gridded makes image_grid_thw besides tokens and pictures"):
        VisionLanguage(net.lm, Gridded())


# -- from end to end --------------------------------------------------------------------------------------------------

BARE = """
import json, sys, transformers
from PIL import Image
for place in sys.argv[2:]:
    model = transformers.LlavaForConditionalGeneration.from_pretrained(place).eval()
    processor = transformers.AutoProcessor.from_pretrained(place)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it ?"}]}]
    text = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    coded = processor(text=text, images=[Image.open(sys.argv[1]).convert("RGB")], return_tensors="pt")
    said = model.generate(**coded, max_new_tokens=10, do_sample=False, pad_token_id=0)
    print(json.dumps(said[0, coded["input_ids"].shape[1]:].tolist()))
assert "limbeck" not in sys.modules
"""


def test_students_learn_from_pictures_and_open_in_bare_transformers(place: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    many = [{**row, "completion": f"{row['completion']} {i}"} for i, row in enumerate(rows * 5)]
    (place / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    runs = []
    for key in ("gkd", "kd"):
        out = distill(key, teacher=str(place / "big"), student=str(place / "small"), data=str(place / "many.jsonl"),
                      out=tmp_path / key, steps=3, batch_size=4, set={"student.optimizer.lr": 1e-2})  # fmt: skip
        after, before = (
            transformers.LlavaForConditionalGeneration.from_pretrained(p).state_dict()
            for p in (out / "student", place / "small")
        )
        changed = [name for name in after if not torch.equal(after[name], before[name])]
        assert any("vision_tower" in name for name in changed) and any("language_model" in name for name in changed)
        runs.append(out / "student")
    found = subprocess.run([sys.executable, "-c", BARE, str(place / "0.png"), *map(str, runs)], capture_output=True,
                           text=True, check=False)  # fmt: skip
    assert found.returncode == 0, found.stderr
    for student, said in zip(runs, found.stdout.splitlines()[-2:], strict=True):
        net = open_player(student).eval()
        assert said_by(net, batch_of(net, place / "rows.jsonl").rows(slice(0, 1)))[0] == json.loads(said)
