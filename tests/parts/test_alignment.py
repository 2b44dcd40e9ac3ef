"""Embeddings in the teacher's space, against SciPy, finite differences and geometry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.spatial.distance import sqeuclidean
from torch import Tensor, nn

from limbeck import distill
from limbeck.adapters.modules import Plain
from limbeck.adapters.sentence import Sentence, encode
from limbeck.adapters.source import open_player
from limbeck.adapters.store import save_player
from limbeck.api import _before, _open
from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.errors import BadValue, Mismatch
from limbeck.evaluate import Examination
from limbeck.index import load
from limbeck.loop import Loop, Options
from limbeck.parts.alignment import squared_distance, turned, with_output_map
from limbeck.parts.embedding import cosine_distance
from limbeck.parts.optimizer import sgd
from limbeck.players import Player, Players
from limbeck.roles import frozen, learning
from tests.adapters import tiny

TEXTS = ["the cat sat on the log", "a lazy dog", "it is 42 , said the user to the assistant"]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def game(student: Tensor, teacher: Tensor) -> Players:
    given = {"student": student, "teacher": teacher}
    answers = {
        n: Player(n, frozen(), answer=lambda b, want, rows=rows: {"embedding": rows}) for n, rows in given.items()
    }
    return Players(answers)


def rows(n: int = 5) -> Batch:
    return Batch({"x": torch.arange(n)})


@settings(deadline=None)
@given(seed=st.integers(0, 200), width=st.integers(2, 9))
def test_the_distance_is_scipys_from_the_unit_vector(seed: int, width: int) -> None:
    y, t = drawn(seed, 5, width), drawn(seed + 1, 5, width)
    got = squared_distance()(game(y, t), rows())
    units = t.numpy() / (t**2).sum(1, keepdim=True).sqrt().numpy()
    assert got.tolist() == pytest.approx([sqeuclidean(a, b) for a, b in zip(y.numpy(), units, strict=True)])


def test_between_unit_vectors_it_is_twice_the_cosine_distance_and_else_it_minds_lengths() -> None:
    y, t = nn.functional.normalize(drawn(0, 5, 4), dim=1), drawn(1, 5, 4)
    torch.testing.assert_close(squared_distance()(game(y, t), rows()), 2 * cosine_distance()(game(y, t), rows()))
    assert (squared_distance()(game(3 * t, t), rows()) > 0).all()


def test_its_gradient_is_that_of_finite_differences() -> None:
    t = drawn(1, 5, 4)
    assert torch.autograd.gradcheck(lambda y: squared_distance()(game(y, t), rows()), drawn(0, 5, 4).requires_grad_())


def test_spaces_of_different_sizes_are_refused() -> None:
    with pytest.raises(Mismatch, match="embeddings of 4 and 3 features"):
        squared_distance()(game(drawn(0, 5, 4), drawn(1, 5, 3)), rows())


def test_turning_keeps_every_angle_and_is_the_same_for_every_batch() -> None:
    t = drawn(0, 6, 5)
    whole = turned()(None, Batch({"cache.embedding": t}))["cache.embedding"]
    torch.testing.assert_close(whole @ whole.T, t @ t.T)
    halves = [turned()(None, Batch({"cache.embedding": half}))["cache.embedding"] for half in t.chunk(2)]
    torch.testing.assert_close(torch.cat(halves), whole)
    assert (whole - t).norm() > t.norm() / 2
    assert not torch.equal(turned(seed=1)(None, Batch({"cache.embedding": t}))["cache.embedding"], whole)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_map_stands_behind_the_pooling_and_the_student_stays_as_it_was(normalise: bool) -> None:
    bed = load_bed("retrieval")
    nets = {"student": bed.players["student"](0), "teacher": bed.players["teacher"](0)}
    players = Players({n: Player(n, frozen(), net) for n, net in nets.items()})
    batch = Batch(bed.data(0)["train"].take(torch.arange(4)))
    made = with_output_map(normalise=normalise)(players, batch)
    assert not nets["student"].dense and all(p.requires_grad for p in made.parameters())
    with torch.no_grad():
        (w_out,) = made.dense.parameters()
        hidden = made.model(batch["tokens"], attention_mask=(batch["tokens"] > 0).long()).last_hidden_state
        inside = (batch["tokens"] > 0).double()[:, :, None]
        mapped = ((hidden * inside).sum(1) / inside.sum(1)) @ w_out.double().T
        expected = mapped / mapped.norm(dim=1, keepdim=True) if normalise else mapped
        got = made(batch, frozenset({"embedding"}))["embedding"]
    assert w_out.shape == (64, 16)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


def test_only_an_embedder_has_a_place_for_the_map() -> None:
    players = Players({n: Player(n, frozen(), Plain(nn.Linear(2, 2))) for n in ("student", "teacher")})
    with pytest.raises(BadValue, match="must be a sentence embedder, which a Plain is not"):
        with_output_map()(players, rows())


@pytest.fixture
def given_(tmp_path: Path) -> dict[str, str]:
    """A teacher of 32 features, and texts."""
    bare = open_player(tiny.write("bert-bare", tmp_path / "bare"))
    save_player(Sentence(bare.model, bare.tokenizer), tmp_path / "teacher")
    lines = [json.dumps({"text": f"the {word} and {i}"}) for i, word in enumerate(" ".join(tiny.TEXT).split())]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    student = "from-teacher:layers=1,width=0.5"
    return {"teacher": str(tmp_path / "teacher"), "student": student, "data": str(tmp_path / "texts.jsonl")}


def test_a_narrow_student_of_a_users_own_is_saved_with_its_map(given_: dict[str, str], tmp_path: Path) -> None:
    out = distill("leaf-embedding", out=tmp_path / "run", steps=20, batch_size=8,
                  set={"aligned.optimizer.lr.start": 1e-2}, **given_)  # fmt: skip
    saved = out / "aligned"
    listed = [(m["path"], m["type"].rsplit(".", 1)[-1]) for m in json.loads((saved / "modules.json").read_text())]
    assert listed == [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
    bare = transformers.AutoModel.from_pretrained(saved).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
    w_out = load_file(saved / "2_Dense" / "model.safetensors")["linear.weight"]
    assert bare.config.hidden_size == 16 and w_out.shape == (32, 16)
    with torch.no_grad():
        by_hand = [
            bare(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) @ w_out.T for text in TEXTS
        ]
    units = nn.functional.normalize(torch.stack(by_hand), dim=1)
    torch.testing.assert_close(encode(open_player(str(saved)), TEXTS), units, atol=1e-5, rtol=1e-4)
    before, after = (Examination.load(out).qualities[0].values[who] for who in ("before", "after"))
    assert after > before


def test_before_is_the_student_with_the_map_that_the_run_began_with(given_: dict[str, str]) -> None:
    data, specs = given_.pop("data"), given_
    job = _open(load("leaf-embedding"), specs, data, None, 3)
    loop = Loop(job.recipe, job.nets, dict(job.data), Options(seed=3))
    first = {n: t.clone() for n, t in loop.players.aligned.module.state_dict().items()}  # type: ignore[union-attr]
    again = _before(job, 3)
    assert again is not None
    assert all(torch.equal(t, first[name]) for name, t in again.state_dict().items())


def test_a_student_that_learns_keeps_learning_in_the_copy() -> None:
    bed = load_bed("retrieval")
    student = Player("student", learning(sgd(lr=0.1)), bed.players["student"](0))
    student.turn("", False)
    players = Players({"student": student, "teacher": Player("teacher", frozen(), bed.players["teacher"](0))})
    made = with_output_map()(players, Batch(bed.data(0)["train"].take(torch.arange(2))))
    assert all(p.requires_grad for p in made.parameters())
