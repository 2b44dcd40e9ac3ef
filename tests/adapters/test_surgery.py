"""Students cut from teachers: what is kept is the teacher's, and what the teacher did not use may go unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from limbeck.adapters.modules import Plain
from limbeck.adapters.source import open_player
from limbeck.adapters.surgery import parse_sizes, shrink
from limbeck.adapters.weights import wrapped
from limbeck.batch import Batch
from limbeck.errors import BadValue
from tests.adapters import tiny

ROWS = Batch({"tokens": torch.arange(5, 23).view(2, 9), "length": torch.tensor([9, 6])})
WIDE = ["gpt2", "qwen2", "qwen3", "llama", "bert", "bert-mlm"]


@torch.no_grad()
def hidden(net: torch.nn.Module) -> torch.Tensor:
    return net(ROWS, frozenset({"hidden"}))["hidden"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for kind in [*WIDE, "t5"]:
        tiny.write(kind, place / kind)
    return place


@pytest.mark.parametrize("kind", WIDE)
def test_nothing_cut_is_a_copy(home: Path, kind: str) -> None:
    teacher = open_player(home / kind)
    student = shrink(teacher)
    assert torch.equal(hidden(student), hidden(teacher))
    with torch.no_grad():
        for p in student.parameters():
            p.zero_()
    assert hidden(teacher).abs().max() > 0  # the student shares no memory with it


@pytest.mark.parametrize("kind", WIDE)
def test_layers_are_spaced_evenly(home: Path, kind: str) -> None:
    teacher, student = open_player(home / kind), shrink(open_player(home / kind), layers=2)
    theirs, mine = (dict(wrapped(net).named_parameters()) for net in (teacher, student))
    assert wrapped(student).config.num_hidden_layers == 2
    for name, weight in mine.items():
        # Of layers 0 to 3 the first and the last.
        assert torch.equal(weight, theirs[name.replace(".1.", ".3.")])


@pytest.mark.parametrize("kind", WIDE)
@torch.no_grad()
def test_idle_heads_and_neurons_are_what_goes(home: Path, kind: str) -> None:
    teacher = open_player(home / kind)
    model = wrapped(teacher)
    head = getattr(model.config, "head_dim", None) or 8
    kept_heads = torch.arange(2 * head) if kind in ("qwen2", "qwen3", "llama") else torch.arange(head, 3 * head)
    kept_neurons = torch.arange(1, 1000, 2)
    for name, weight in model.named_parameters():
        if not name.endswith("weight") or weight.ndim != 2:
            continue
        turned = weight.T if kind == "gpt2" else weight
        if any(part in name for part in ("o_proj", "attn.c_proj", "attention.output.dense")):
            turned[:, [i for i in range(turned.shape[1]) if i not in kept_heads]] = 0
        elif any(part in name for part in ("down_proj", "mlp.c_proj", "output.dense")):
            turned[:, [i for i in range(turned.shape[1]) if i not in kept_neurons]] = 0
    # Only the heads and neurons are cut here: the features are all kept by a teacher whose other half is silent.
    student = shrink(teacher, width=0.5)
    theirs, mine = dict(model.named_parameters()), dict(wrapped(student).named_parameters())
    outs = [n for n in mine if any(p in n for p in ("o_proj.w", "c_proj.w", "output.dense.w", "down_proj.w"))]
    assert len(outs) == 8
    for name in outs:
        rows = 0 if kind == "gpt2" else 1
        # Every input that survives is one that the teacher uses.
        assert (mine[name].norm(dim=1 - rows) > 0).all(), name
        used = int((theirs[name].norm(dim=1 - rows) > 0).sum())
        assert mine[name].shape[rows] == used


@pytest.mark.parametrize("kind", WIDE)
def test_width_makes_a_consistent_smaller_model(home: Path, kind: str) -> None:
    teacher = open_player(home / kind)
    student = shrink(teacher, layers=3, width=0.5)
    config, old = wrapped(student).config, wrapped(teacher).config
    assert config.hidden_size == old.hidden_size // 2 and config.num_attention_heads == old.num_attention_heads // 2
    answers = hidden(student)
    assert answers.shape == (2, 9, old.hidden_size // 2) and answers.isfinite().all()
    # The weights are the teacher's: each value of the embedding is found there.
    mine, theirs = (wrapped(net).get_input_embeddings().weight for net in (student, teacher))
    kept = [int((theirs == mine[:, i : i + 1]).all(0).nonzero()[0]) for i in range(mine.shape[1])]
    strength = theirs.norm(dim=0)
    assert sorted(kept) == sorted(strength.topk(len(kept)).indices.tolist())


def test_sizes_that_cannot_be(home: Path) -> None:
    llama = open_player(home / "llama")
    for sizes, message in [
        ({"layers": 5}, "layers must be 1 to 4"),
        ({"width": 0.0}, "width in"),
        ({"width": 0.3}, "leaves no whole heads of 4 .2 key-value heads.; possible: 0.5, 1"),
    ]:
        with pytest.raises(BadValue, match=message):
            shrink(llama, **sizes)
    with pytest.raises(BadValue, match="width is not known for T5"):
        shrink(open_player(home / "t5"), width=0.5)
    with pytest.raises(BadValue, match="needs a transformers model"):
        shrink(Plain(torch.nn.Linear(2, 2)))


def test_the_spelling_of_sizes() -> None:
    assert parse_sizes("from-teacher") == {}
    assert parse_sizes("from-teacher:width=0.25,layers=3") == {"width": 0.25, "layers": 3}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """A BERT encoder whose words lie in a plane of eight dimensions and differ little in norm."""
    net = open_player(tiny.write("bert-bare", tmp_path_factory.mktemp("bare")))
    table = wrapped(net).embeddings
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        words = torch.randn(200, 8, generator=generator) @ torch.randn(8, 32, generator=generator)
        table.word_embeddings.weight.copy_(words / words.norm(dim=1, keepdim=True) * 32**0.5)
        table.LayerNorm.weight.fill_(1.0)
        table.LayerNorm.bias.zero_()
        for small in (table.position_embeddings, table.token_type_embeddings):
            small.weight.mul_(0.02)
    return net


@torch.no_grad()
def test_a_narrow_table_gives_the_layers_nearly_what_the_wide_one_gave(bare: torch.nn.Module) -> None:
    student = shrink(bare, embedding=9)
    theirs = wrapped(bare).embeddings(ROWS["tokens"])
    mine = wrapped(student).embeddings_project(wrapped(student).embeddings(ROWS["tokens"]))
    # Nine columns that sum to zero hold eight directions; positions are small. Three columns lose most of the words.
    few = wrapped(shrink(bare, embedding=3))
    poor = few.embeddings_project(few.embeddings(ROWS["tokens"]))
    assert (mine - theirs).norm() < 0.15 * theirs.norm() < 0.4 * (poor - theirs).norm()


def test_the_layers_under_a_narrow_table_are_the_teachers(bare: torch.nn.Module) -> None:
    student = shrink(bare, layers=2, embedding=4)
    config, mine = wrapped(student).config, wrapped(student).encoder.state_dict()
    assert config.model_type == "electra" and (config.embedding_size, config.hidden_size) == (4, 32)
    assert config.hidden_dropout_prob == 0 and student.context == bare.context
    for name, weight in wrapped(bare).encoder.state_dict().items():
        if ".0." in name[:8] or ".3." in name[:8]:
            assert torch.equal(mine[name.replace("layer.3.", "layer.1.")], weight)
    assert hidden(student).shape == (2, 9, 32)
    assert sum(p.numel() for p in student.parameters()) < 0.7 * sum(p.numel() for p in bare.parameters())


def test_a_narrow_table_is_for_bare_bert_only(home: Path, bare: torch.nn.Module) -> None:
    with pytest.raises(BadValue, match="embedding is known for bare BERT encoders, not for LlamaForCausalLM"):
        shrink(open_player(home / "llama"), embedding=8)
    with pytest.raises(BadValue, match="embedding must be 2 to 31, got 32"):
        shrink(bare, embedding=32)
    assert parse_sizes("from-teacher:layers=2,embedding=64") == {"layers": 2, "embedding": 64}
