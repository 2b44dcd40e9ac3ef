"""Shallow players: what the teacher computes when the other layers are passed by, and which block turns least."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.depth import layers_of, streams
from limbeck.adapters.modules import Plain
from limbeck.adapters.source import open_player
from limbeck.adapters.surgery import parse_sizes, shrink
from limbeck.adapters.weights import wrapped
from limbeck.batch import Batch
from limbeck.beds._text import tiny_llama
from limbeck.errors import BadValue
from limbeck.parts import truncated as parts
from limbeck.players import Player, Players
from limbeck.roles import frozen
from tests.adapters import tiny

ROWS = Batch({"tokens": torch.arange(5, 23).view(2, 9), "length": torch.tensor([9, 6])})
KINDS = ["gpt2", "llama", "qwen2", "qwen3"]
CHOICES = [parts.first(), parts.last(), parts.both_ends(), parts.even(), parts.max_gap()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for kind in [*KINDS, "t5"]:
        tiny.write(kind, place / kind)
    return place


def answer(net: nn.Module, want: str = "hidden") -> torch.Tensor:
    with torch.no_grad():
        return net(ROWS, frozenset({want}))[want]


def passed_by(net: nn.Module, layers: list[int]) -> torch.Tensor:
    """What a net answers with some layers giving out what they were given."""

    def skip(_layer, args, kwargs, output):
        given = args[0] if args else kwargs["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    hooks = [layers_of(net)[k].register_forward_hook(skip, with_kwargs=True) for k in layers]
    try:
        return answer(net)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: c.spec.name)
@given(st.data())
def test_a_choice_is_that_many_layers_in_order(choice, data) -> None:
    layers = data.draw(st.integers(1, 40))
    kept = data.draw(st.integers(1, layers))
    found = choice(layers, kept)
    assert len(found) == kept and found == sorted(set(found)) and 0 <= found[0] <= found[-1] < layers
    assert choice(layers, layers) == list(range(layers))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [[0, 3], [1, 2], [0, 2, 3], [3]])
def test_the_cut_model_is_the_teacher_with_layers_passed_by(home: Path, kind: str, kept: list[int]) -> None:
    teacher = open_player(home / kind)
    student = shrink(teacher, kept)
    assert torch.equal(answer(student), passed_by(teacher, [k for k in range(4) if k not in kept]))
    assert not torch.equal(answer(student), answer(teacher))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cut_model_decodes_with_its_cache_as_it_reads(home: Path, kind: str) -> None:
    # layers that kept their old numbers would write into a cache that is not there
    student = shrink(open_player(home / kind), [1, 3])
    seen, positions = torch.ones(2, 9, dtype=torch.bool), torch.arange(9).expand(2, 9)
    at = {"tokens": ROWS.tokens[:, :8], "seen": seen[:, :8], "positions": positions[:, :8], "cache": None}
    with torch.no_grad():
        before = student(at, frozenset({"next", "cache"}))
        one = {"tokens": ROWS.tokens[:, 8:], "seen": seen, "positions": positions[:, 8:], "cache": before["cache"]}
        after = student(one, frozenset({"next"}))["next"]
    torch.testing.assert_close(after, answer(student, "logits")[:, -1])


@pytest.mark.parametrize("kind", KINDS)
def test_streams_are_what_transformers_calls_hidden_states(home: Path, kind: str) -> None:
    net = open_player(home / kind)
    found = streams(net, ROWS)
    with torch.no_grad():
        theirs = wrapped(net)(ROWS.tokens, output_hidden_states=True).hidden_states
    assert len(found) == len(theirs) == 5
    for mine, other in zip(found[:-1], theirs[:-1], strict=True):  # theirs come to an end after the last norm
        assert torch.equal(mine, other)


def with_idle(layers: list[int]) -> CausalLM:
    """A Llama of six layers, some of which add nothing."""
    model = tiny_llama(30, 0, width=16, layers=6)
    with torch.no_grad():
        for k in layers:
            for weight in (model.model.layers[k].self_attn.o_proj.weight, model.model.layers[k].mlp.down_proj.weight):
                weight.zero_()
    return CausalLM(model)


def pair(teacher: nn.Module, share: float) -> Players:
    players = {"teacher": Player("teacher", frozen(), teacher)}
    student = parts.truncated(share=share)(Players(players), ROWS)
    return Players({**players, "student": Player("student", frozen(), student)})


@pytest.mark.parametrize("idle", [[1, 2], [3, 4], [4, 5], [0, 1]])
def test_the_block_that_goes_is_the_one_that_does_nothing(idle: list[int]) -> None:
    players = pair(with_idle(idle), 4 / 6)
    _, found = parts.closest_block()(players, ROWS, {})
    assert found["start"] == idle[0] and found["distance"] < 1e-6
    assert torch.equal(answer(players.student.module), answer(players.teacher.module))


def test_angles_are_those_of_a_protractor() -> None:
    turn = [torch.tensor(x, dtype=torch.float64) for x in (0.0, 0.3, 1.1, 3.0)]
    one = [torch.stack((t.cos(), t.sin()))[None, None] * (1 + k) for k, t in enumerate(turn)]
    beyond = [torch.cat((h, torch.randn(1, 3, 2).double()), 1) for h in one]  # padding is not looked at
    by_two = parts.angles(beyond, torch.tensor([1]), 2)
    torch.testing.assert_close(by_two, torch.tensor([1.1, 2.7]) / math.pi)


def test_truncated_leaves_the_teacher_alone_and_needs_layers(home: Path) -> None:
    teacher = with_idle([])
    before, players = answer(teacher), pair(teacher, 0.5)
    assert len(layers_of(players.student.module)) == 3
    with torch.no_grad():
        for p in players.student.module.parameters():
            p.zero_()
    assert torch.equal(answer(teacher), before) and all(p.requires_grad for p in players.student.module.parameters())
    with pytest.raises(BadValue, match="share in"):
        pair(teacher, 0.0)
    with pytest.raises(BadValue, match="one stack, not for"):
        pair(Plain(nn.Linear(2, 2)), 0.5)
    with pytest.raises(BadValue, match="one stack, not for T5"):
        pair(open_player(home / "t5"), 0.5)
    with pytest.raises(BadValue, match="all 6 layers"):
        parts.closest_block()(pair(teacher, 1.0), ROWS, {})
    for wrong in ([1, 1], [2, 1], [0, 6], [-1, 2], []):
        with pytest.raises(BadValue, match="different numbers from 0 to 5"):
            shrink(teacher, wrong)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_fewer_heads_are_the_teacher_with_those_outputs_zeroed(home: Path, kind: str) -> None:
    teacher = open_player(home / kind)
    model, student = wrapped(teacher), shrink(teacher, heads=2)
    config = wrapped(student).config
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
    assert config.hidden_size == model.config.hidden_size
    for layer in model.model.layers:
        out_HI = layer.self_attn.o_proj.weight
        half = out_HI.shape[1] // 2
        weaker = slice(0, half) if out_HI[:, :half].norm() < out_HI[:, half:].norm() else slice(half, None)

        def silence(_module, given, weaker=weaker):
            return (given[0].index_fill(-1, torch.arange(given[0].shape[-1])[weaker], 0.0),)

        layer.self_attn.o_proj.register_forward_pre_hook(silence)
    torch.testing.assert_close(answer(student), answer(teacher))


def test_fewer_heads_and_layers_at_once_reload_from_their_directory(home: Path, tmp_path: Path) -> None:
    student = shrink(open_player(home / "qwen2"), layers=2, heads=2)
    wrapped(student).save_pretrained(tmp_path)
    student.tokenizer.save_pretrained(tmp_path)
    assert torch.equal(answer(open_player(tmp_path)), answer(student))


def test_heads_that_cannot_be(home: Path) -> None:
    assert parse_sizes("from-teacher:layers=2,heads=8") == {"layers": 2, "heads": 8}
    with pytest.raises(BadValue, match="heads 3 leaves no whole groups; possible: 2, 4"):
        shrink(open_player(home / "llama"), heads=3)
    with pytest.raises(BadValue, match="heads is known for Llama, Mistral and Qwen, not for GPT2LMHeadModel"):
        shrink(open_player(home / "gpt2"), heads=2)
