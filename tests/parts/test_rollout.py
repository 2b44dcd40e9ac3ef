"""Rollouts: exact distributions, and independence from padding, neighbours and splits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn
from transformers import GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue, BrokenRecipe
from limbeck.part import part
from limbeck.parts.policy import logp_of_tokens, recorded
from limbeck.parts.rollout import _logp, choose, mixed, recalled_logp, rollout, sample
from limbeck.parts.transcript import take
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen
from tests.adapters.test_causal_lm import CONFIGS, tiny

V = 6


def speaker(seed: int = 0, **changes: object) -> Player:
    return Player("student", frozen(), CausalLM(tiny(LlamaConfig, seed, vocab_size=V, **changes)))


def prompts(seed: int = 0, rows: int = 5, width: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(2, V, (rows, width), generator=g), torch.randint(1, width + 1, (rows,), generator=g)


def rows_of(tokens: torch.Tensor, length: torch.Tensor) -> list[list[int]]:
    return [t[:n] for t, n in zip(tokens.tolist(), length.tolist(), strict=True)]


def test_samples_have_the_exact_distribution() -> None:
    # all sequences of up to two tokens (the end token 1 stops one early), against the product of exact probabilities
    player, n = speaker(), 20_000
    tokens, length = sample(
        player, torch.tensor([[3, 4]]).expand(n, -1), torch.full((n,), 2), Rng(("chi", 0), torch.arange(n)),
        max_new_tokens=2,
    )  # fmt: skip
    counts: dict[tuple[int, ...], int] = {}
    for row in rows_of(tokens, length):
        counts[tuple(row[2:])] = counts.get(tuple(row[2:]), 0) + 1
    ask = torch.tensor([[3, 4, k] for k in range(V)])
    p = player(Batch({"tokens": ask}), "logits").detach().double().softmax(-1)
    exact = {(a, b): float(p[0, 1, a] * p[a, 2, b]) for a, b in itertools.product(range(V), repeat=2) if a != 1}
    exact[1,] = float(p[0, 1, 1])
    assert set(counts) <= set(exact)
    assert chisquare([counts.get(k, 0) for k in exact], [n * q for q in exact.values()]).pvalue > 1e-3


def test_temperature_and_nucleus_have_the_exact_distribution() -> None:
    logits, n = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -torch.inf]]), 20_000
    u = Rng(("u", 0), torch.arange(n)).uniform("u")
    p = (logits[0].double() / 1.5).softmax(-1).numpy()
    # the most probable tokens are kept until they hold the mass: 0, 1 and 2 for 0.8
    assert p[:2].sum() < 0.8 < p[:3].sum()
    drawn = choose(logits.expand(n, -1), u, temperature=1.5, top_p=0.8)
    counts = np.bincount(drawn, minlength=V)
    assert counts[3:].sum() == 0
    assert chisquare(counts[:3], n * p[:3] / p[:3].sum()).pvalue > 1e-3


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), top_p=st.floats(0.05, 1.0), temperature=st.floats(0.1, 4.0))
def test_impossible_tokens_are_never_chosen(seed: int, top_p: float, temperature: float) -> None:
    logits = 5 * torch.randn(64, 9, generator=torch.Generator().manual_seed(seed))
    logits[:, [0, 4, 8]] = -torch.inf
    u = torch.linspace(1e-7, 1 - 1e-7, 64)
    drawn = choose(logits, u, temperature=temperature, top_p=top_p)
    assert not torch.isin(drawn, torch.tensor([0, 4, 8])).any()


def test_greedy_takes_the_most_probable_and_a_tiny_nucleus_too() -> None:
    logits = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    u = torch.rand(20)
    assert torch.equal(choose(logits, u, temperature=0.0), logits.argmax(-1))
    assert torch.equal(choose(logits, u, top_p=1e-6), logits.argmax(-1))


@pytest.mark.parametrize("config", CONFIGS)
def test_rows_do_not_depend_on_padding_or_on_the_split(config: type[PretrainedConfig]) -> None:
    player = Player("student", frozen(), CausalLM(tiny(config, 1, vocab_size=V)))
    tokens, length = prompts()
    rng = Rng(("split", 0), torch.arange(5))
    whole = rows_of(*sample(player, tokens, length, rng, max_new_tokens=9))
    wide = torch.cat((tokens, torch.full((5, 4), 3)), 1)
    assert rows_of(*sample(player, wide, length, rng, max_new_tokens=9)) == whole
    for b in range(5):
        at = slice(b, b + 1)
        alone = sample(player, tokens[at, : length[b]], length[at], rng.at(at), max_new_tokens=9)
        assert rows_of(*alone) == whole[b : b + 1]


def test_a_row_begins_with_its_prompt_and_ends_at_the_first_end_token() -> None:
    player = speaker(2)
    tokens, length = prompts(1, rows=64)
    made, total = sample(player, tokens, length, Rng(("ends", 0), torch.arange(64)), max_new_tokens=8)
    assert made.shape[1] == total.max()
    for row, full, prompt, n in zip(made.tolist(), total.tolist(), tokens.tolist(), length.tolist(), strict=True):
        said = row[n:full]
        assert row[:n] == prompt[:n] and set(row[full:]) <= {player.pad}
        assert 1 not in said[:-1] and (said[-1] == 1 or len(said) == 8)
    assert len(set((total - length).tolist())) > 3


def test_dropout_is_off_while_sampling_and_on_again_after() -> None:
    lm = tiny(GPT2Config, 0, vocab_size=V, resid_pdrop=0.5, embd_pdrop=0.5)
    player = Player("student", frozen(), CausalLM(lm.train()))
    given = (*prompts(), Rng(("dropout", 0), torch.arange(5)))
    assert player.module is not None and player.module.training
    assert rows_of(*sample(player, *given, max_new_tokens=6)) == rows_of(*sample(player, *given, max_new_tokens=6))
    assert all(m.training for m in player.module.modules())


def rows(seed: int = 0) -> Batch:
    tokens, length = prompts(seed)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    rng = Rng(("run", 0), torch.arange(5))
    return Batch(
        {"tokens": tokens, "length": length, "mask": mask, "prompt": length, "index": torch.arange(5) + 40}, rng
    )


def test_rollout_marks_the_answer_and_leaves_the_prompt() -> None:
    batch = rows()
    made = rollout(max_new_tokens=4)(Players({"student": speaker()}), batch)
    for b in range(5):
        p, n = int(batch.prompt[b]), int(made.length[b])
        assert made.tokens[b, :p].tolist() == batch.tokens[b, :p].tolist()
        assert made.mask[b].nonzero()[:, 0].tolist() == list(range(p, n))
    assert made.counts["tokens"] == made.mask.sum() > 0


def test_another_player_can_speak() -> None:
    teacher = speaker(3)
    teacher.name = "teacher"
    players = Players({"student": speaker(0), "teacher": teacher})
    alone = rollout(max_new_tokens=4)(Players({"student": teacher}), rows())
    asked = rollout(max_new_tokens=4).on(student="teacher")(players, rows())
    assert torch.equal(asked.tokens, alone.tokens)


def test_prompts_that_leave_no_room_are_refused_by_row() -> None:
    players = Players({"student": speaker(max_position_embeddings=10)})
    batch = rows().with_(prompt=torch.tensor([3, 7, 5, 7, 1]))
    with pytest.raises(BadData, match=r"row 41: a prompt of 7 tokens and 4 new ones exceed the context .* may have 6"):
        rollout(max_new_tokens=4)(players, batch)
    with pytest.raises(BadData, match="row 42: the prompt is empty"):
        rollout(max_new_tokens=4)(players, batch.with_(prompt=torch.tensor([3, 1, 0, 7, 1])))


def test_senseless_sampling_is_refused() -> None:
    tokens, length = prompts()
    rng = Rng((), torch.arange(5))
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(BadValue, match="temperature >= 0 and 0 < top_p <= 1"):
            sample(speaker(), tokens, length, rng, max_new_tokens=4, **wrong)
    with pytest.raises(BrokenRecipe, match="'both' has no net of its own"):
        sample(Player("both", frozen()), tokens, length, rng, max_new_tokens=4)


@part
def marked(players: Players, batch: Batch) -> Batch:
    """Mark a batch as on-policy."""
    return batch.with_(own=torch.ones(batch.size))


def test_the_coin_of_a_step_is_the_same_for_all_processes_and_has_its_share() -> None:
    taken = []
    for step in range(400):
        key = ("seed", 0, "step", step)
        parts = [Batch({"x": torch.zeros(4)}, Rng(key, torch.arange(start, start + 4))) for start in (0, 4, 1000)]
        coins = {"own" in mixed(on_policy=marked(), share=0.3)(Players({}), b) for b in parts}
        assert len(coins) == 1
        taken.append(coins.pop())
    # 400 coins of 0.3: six standard deviations are 0.14
    assert abs(np.mean(taken) - 0.3) < 0.14
    batch = Batch({"x": torch.zeros(4)})
    assert "own" in mixed(on_policy=marked(), share=1.0)(Players({}), batch)
    assert "own" not in mixed(on_policy=marked(), share=0.0)(Players({}), batch)


class Table(nn.Module):
    """A student over two tokens whose next-token logits are a table by position and last token."""

    vocab, eos, pad, context, family = 2, (), 0, None, ""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, batch: dict[str, torch.Tensor], want: frozenset[str]) -> dict[str, object]:
        last, at = batch["tokens"][:, -1], batch["seen"].sum(1) - 1
        return {"next": self.logits[at, last], "cache": True}


def test_on_policy_gradient_is_the_expectation_over_enumerated_sequences() -> None:
    # the gradient of E_{y ~ q} sum_t KL(q_t || p_t) with the sampling held fixed, by enumeration of all y of 3 tokens
    # and by the mean over 40,000 sampled ones
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 2, 2, generator=g, dtype=torch.float64) for _ in range(2))
    net = Table(student)

    def kl(path: torch.Tensor) -> torch.Tensor:
        """The sum of the token divergences along a path of three tokens after token 0: (N,)."""
        before = torch.cat((torch.zeros_like(path[:, :1]), path[:, :-1]), 1)
        q, p = (z[torch.arange(3), before].log_softmax(-1) for z in (net.logits, teacher))
        return (q.exp() * (q - p)).sum((-1, -2))

    paths = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    before = torch.cat((torch.zeros_like(paths[:, :1]), paths[:, :-1]), 1)
    step = net.logits.detach()[torch.arange(3), before].log_softmax(-1)
    chance = step.gather(-1, paths[..., None]).sum((-1, -2)).exp()
    (exact,) = torch.autograd.grad((chance * kl(paths)).sum(), net.logits)
    n = 40_000
    player = Player("student", frozen(), net)
    made, _ = sample(
        player, torch.zeros(n, 1, dtype=torch.long), torch.ones(n, dtype=torch.long), Rng(("mc", 0), torch.arange(n)),
        max_new_tokens=3,
    )  # fmt: skip
    (sampled,) = torch.autograd.grad(kl(made[:, 1:]).mean(), net.logits)
    assert (sampled - exact).abs().max() < 0.01 < exact.abs().max() / 5


def test_all_families_are_tried() -> None:
    assert {LlamaConfig, Qwen2Config, GPT2Config} <= set(CONFIGS)


# -- how likely it was ------------------------------------------------------------------------------------------------


def heads_asked(player: Player) -> list[frozenset[str]]:
    """Collect what a player's net is asked from now on, steps of decoding left out."""
    asked: list[frozenset[str]] = []
    net = player.module
    assert net is not None
    net.register_forward_pre_hook(lambda module, given: asked.append(given[1]) if "head" in given[1] else None)
    return asked


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("how", [{}, {"temperature": 0.0}, {"temperature": 1.7, "top_p": 0.9}])
def test_what_was_said_is_recorded_as_one_more_forward_finds_it(
    config: type[PretrainedConfig], how: dict[str, float]
) -> None:
    player = Player("student", frozen(), CausalLM(tiny(config, 1, vocab_size=600)))
    players, batch = Players({"student": player}), rows(1)
    made = rollout(max_new_tokens=9, **how)(players, batch)
    asked, expected = heads_asked(player), logp_of_tokens(player, made)
    kept = recorded()(players, made.with_(reward=torch.zeros(5)))["logp_old"]
    assert len(asked) == 1, "the student was not asked again"
    assert made.mask.sum() > 20 and (kept[made.mask] < 0).any() and (kept[~made.mask] == 0).all()
    torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-5)
    # rows that go, and rows that come twice, take it along; fewer targets are found too
    few = take(made, [3, 3, 0])
    torch.testing.assert_close(recorded()(players, few)["logp_old"], kept[[3, 3, 0]])
    assert recalled_logp(player, made.with_(mask=made.mask & False)).eq(0).all()  # type: ignore[union-attr]


def test_a_large_vocabulary_is_summed_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    token = torch.arange(7)
    monkeypatch.setattr("limbeck.parts.rollout.AT_ONCE", 120)
    torch.testing.assert_close(_logp(logits, token), logits.log_softmax(-1)[token, token])


def test_what_is_no_longer_so_is_asked_anew() -> None:
    player, other = speaker(), speaker(1)
    other.name = "teacher"
    players, batch = Players({"student": player, "teacher": other}), rows()
    made = rollout(max_new_tokens=6)(players, batch)
    assert recalled_logp(player, made) is not None and recalled_logp(other, made) is None
    said = rollout(max_new_tokens=6).on(student="teacher")(players, batch)
    assert recalled_logp(player, said) is None and recalled_logp(other, said) is not None
    longer = made.mask.clone()
    longer[:, 1:] = True
    cases = {
        "other tokens": made.with_(tokens=made.tokens),
        "targets that it did not say": made.with_(mask=longer),
        "another step": Batch(made.columns, Rng(("run", 1), made.rng.rows)),
    }
    for case, changed in cases.items():
        assert recalled_logp(player, changed) is None, case
        torch.testing.assert_close(recorded()(players, changed)["logp_old"], logp_of_tokens(player, changed))
    with torch.no_grad():
        next(iter(player.params)).mul_(1.1)
    assert recalled_logp(player, made) is None
    torch.testing.assert_close(recorded()(players, made)["logp_old"], logp_of_tokens(player, made))


def test_low_precision_is_asked_anew() -> None:
    player = speaker()
    assert player.module is not None
    player.module.bfloat16()
    half = rollout(max_new_tokens=4)(Players({"student": player}), rows())
    assert recalled_logp(player, half) is None
    mixed_precision = speaker()
    AcceleratorState._reset_state()
    Accelerator(cpu=True, mixed_precision="bf16").prepare_model(mixed_precision.module, evaluation_mode=True)
    AcceleratorState._reset_state()
    said = rollout(max_new_tokens=4)(Players({"student": mixed_precision}), rows())
    assert recalled_logp(mixed_precision, said) is None
