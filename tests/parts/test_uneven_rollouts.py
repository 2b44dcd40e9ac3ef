"""Rollouts of uneven length: what is said stays the same, and what ended or was read is not computed again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config, GPT2Config, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config
from transformers.cache_utils import DynamicLayer

from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.key_values import Roomy
from limbeck.batch import Batch
from limbeck.parts.rollout import choose, rollout, sample
from limbeck.parts.transcript import repeated
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen
from tests.adapters.test_causal_lm import tiny

WINDOW = {"sliding_window": 6}
FAMILIES = {
    LlamaConfig: {}, Qwen2Config: {}, GPT2Config: {}, MistralConfig: WINDOW, Gemma2Config: {"head_dim": 8, **WINDOW}
}  # fmt: skip
VOCABULARY, ROWS, NEW = 12, 24, 30


def speaker(config: type[PretrainedConfig] = LlamaConfig, seed: int = 0, **changes: object) -> Player:
    lm = tiny(config, seed, vocab_size=VOCABULARY, **FAMILIES[config], **changes)
    return Player("student", frozen(), CausalLM(lm))


def prompts(rows: int = ROWS, width: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randint(2, VOCABULARY, (rows, width), generator=g), torch.randint(1, width + 1, (rows,), generator=g)


def forwards(player: Player) -> list[torch.Size]:
    """The shapes of the tokens that its model is given, filled as it runs."""
    shapes: list[torch.Size] = []
    lm = player.module.lm  # type: ignore[union-attr]
    lm.base_model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(given["input_ids"].shape), with_kwargs=True
    )
    return shapes


@pytest.mark.parametrize("config", FAMILIES)
def test_greedy_ids_are_those_of_generate_where_the_best_token_is_clear(config: type[PretrainedConfig]) -> None:
    player, (tokens, length) = speaker(config, eos_token_id=[1, 5, 7]), prompts()
    lm = player.module.lm  # type: ignore[union-attr]
    made, total = sample(player, tokens, length, Rng((), torch.arange(ROWS)), temperature=0.0, max_new_tokens=NEW)
    close = 0
    for b, (n, end) in enumerate(zip(length.tolist(), total.tolist(), strict=True)):
        prompt = tokens[b : b + 1, :n]
        wanted = lm.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=NEW)[0]
        row = made[b, :end]
        if row.tolist() != wanted.tolist():
            first = next(i for i, (x, y) in enumerate(zip(row.tolist(), wanted.tolist(), strict=False)) if x != y)
            best = lm(row[None, :first]).logits[0, -1].topk(2).values
            assert best[0] - best[1] < 1e-4
            close += 1
    assert close <= 2 and len(set((total - length).tolist())) > 2


@pytest.mark.parametrize("config", FAMILIES)
def test_rows_say_what_they_say_alone(config: type[PretrainedConfig]) -> None:
    player, (tokens, length) = speaker(config, 1), prompts()
    rng = Rng(("alone", 0), torch.arange(ROWS))
    made, total = sample(player, tokens, length, rng, max_new_tokens=NEW)
    for b, n in enumerate(length.tolist()):
        at = slice(b, b + 1)
        alone, _ = sample(player, tokens[at, :n], length[at], rng.at(at), max_new_tokens=NEW)
        assert made[b, : total[b]].tolist() == alone[0].tolist()


def test_rows_that_ended_leave_the_batch() -> None:
    player, (tokens, length) = speaker(seed=2), prompts(64)
    shapes = forwards(player)
    _, total = sample(player, tokens, length, Rng(("leave", 0), torch.arange(64)), max_new_tokens=NEW)
    steps = [rows for rows, width in shapes if width == 1][-int((total - length).max()) + 1 :]
    alive = [int((total - length > k + 1).sum()) for k in range(len(steps))]
    assert steps[0] > steps[-1] and all(n >= a and (n == 1 or 0.8 * n < a) for n, a in zip(steps, alive, strict=True))


def test_copies_of_a_prompt_are_read_once_and_say_different_things() -> None:
    player, (tokens, _) = speaker(seed=3), prompts(3)
    length = torch.full((3,), 20)
    shapes = forwards(player)
    batch = Batch({"tokens": tokens, "length": length, "prompt": length}, Rng(("copies", 0), torch.arange(3)))
    copies = repeated(copies=4)(Players({}), batch)
    made = rollout(max_new_tokens=NEW)(Players({"student": player}), copies)
    assert sum(rows * width for rows, width in shapes if width > 1) == length.sum()
    for b in range(12):
        one = copies.rows(slice(b, b + 1))
        alone = rollout(max_new_tokens=NEW)(Players({"student": player}), one)
        assert made.tokens[b, : made.length[b]].tolist() == alone.tokens[0].tolist()
    assert len({tuple(row) for row in made.tokens.tolist()}) > 6


def test_short_prompts_are_read_apart_from_long_ones() -> None:
    player, (tokens, _) = speaker(seed=4), prompts(8, 60)
    shapes = forwards(player)
    length = torch.tensor([2, 60, 3, 59, 2, 60, 3, 57])
    sample(player, tokens, length, Rng((), torch.arange(8)), max_new_tokens=2)
    assert [tuple(s) for s in shapes if s[1] > 1] == [(4, 3), (4, 60)]


def exact(p: np.ndarray, u: float) -> int:
    """The first token whose cumulative probability reaches u, in extended precision."""
    cdf = np.cumsum(p.astype(np.longdouble))
    return int(np.searchsorted(cdf, u * cdf[-1]))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), vocabulary=st.integers(513, 3000), spread=st.floats(0, 8), heat=st.floats(0.3, 3))
def test_a_large_vocabulary_is_inverted_as_the_exact_distribution_function(
    seed: int, vocabulary: int, spread: float, heat: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    logits, u = spread * torch.randn(8, vocabulary, generator=g), torch.rand(8, generator=g).clamp(1e-6, 1 - 1e-6)
    logits[torch.rand(8, vocabulary, generator=g) < 0.3] = -torch.inf
    drawn = choose(logits, u, temperature=heat)
    p = (logits.double() / heat).softmax(-1).numpy()
    for b, token in enumerate(drawn.tolist()):
        assert p[b, token] > 0
        assert exact(p[b], float(u[b]) - 2e-6) <= token <= exact(p[b], float(u[b]) + 2e-6)


def test_rare_tokens_of_a_large_vocabulary_are_not_lost() -> None:
    logits = torch.full((3, 2000), -torch.inf)
    logits[:, [3, 700]], logits[:, [5, 1999]] = 0.0, -20.0
    p = torch.tensor([1, torch.tensor(-20.0).exp(), 1, torch.tensor(-20.0).exp()]).double()
    middle = (p.cumsum(0) - p / 2) / p.sum()
    assert choose(logits[:1].expand(4, -1), middle.double()).tolist() == [3, 5, 700, 1999]


Step = Callable[[DynamicLayer], None]


@settings(deadline=None, max_examples=40)
@given(steps=st.lists(st.sampled_from(["one", "many", "drop", "turn", "crop"]), min_size=1, max_size=25))
def test_a_layer_with_room_holds_what_the_library_s_own_holds(steps: list[str]) -> None:
    g = torch.Generator().manual_seed(0)
    plain = DynamicLayer()
    plain.update(torch.randn(4, 2, 3, 5, generator=g), torch.randn(4, 2, 3, 5, generator=g))
    roomy = Roomy(plain)
    for step in steps:
        rows = plain.keys.shape[0]
        if step in ("one", "many"):
            new = [torch.randn(rows, 2, 1 if step == "one" else 70, 5, generator=g) for _ in range(2)]
            wanted, got = plain.update(*new), roomy.update(*new)
            assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))
        elif step == "crop":
            last = min(2, plain.get_seq_length() - 1)
            for layer in (plain, roomy):
                layer.crop(-last)
        else:
            order = torch.arange(rows).flip(0)[: max(1, rows - (step == "drop"))]
            for layer in (plain, roomy):
                layer.reorder_cache(order)
        assert torch.equal(plain.keys, roomy.keys) and torch.equal(plain.values, roomy.values)
        assert plain.get_seq_length() == roomy.get_seq_length()
