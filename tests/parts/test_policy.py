"""Policy-gradient parts against enumeration: on three tokens and three places every answer can be written down."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.beds._text import columns
from limbeck.errors import BadValue
from limbeck.kernels.head import TokenHead
from limbeck.part import Part
from limbeck.parts.policy import (
    clipped_surrogate,
    graded,
    group_relative,
    group_standardised,
    leave_one_out,
    logp_of_tokens,
    recorded,
)
from limbeck.parts.transcript import repeated, take
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen
from tests.adapters.test_causal_lm import tiny
from tests.adapters.tiny import byte_tokenizer

V, n = 3, 3
ANSWERS = torch.tensor(list(product(range(V), repeat=n)))


class Told(torch.nn.Module):
    """A language model of three answers' tokens that is a table: logits for every prefix."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        drawn = torch.randn(V**n, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.table = torch.nn.Parameter(drawn)

    def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
        tokens_BT = batch["tokens"][:, 1:]
        place = torch.zeros_like(tokens_BT[:, 0])
        seen = [place]
        for t in range(n):
            place = V * place + tokens_BT[:, t] + 1  # every prefix has its own number
            seen.append(place)
        rows_BTV = self.table[torch.stack(seen, 1) % len(self.table)]
        return {"head": TokenHead(rows_BTV, torch.eye(V, dtype=torch.float64))}


def world(seed: int = 0) -> tuple[Players, Batch]:
    """A student, and all 27 answers to one prompt."""
    tokens = torch.cat((torch.zeros(V**n, 1, dtype=torch.long), ANSWERS), 1)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    player = Player("student", frozen(), Told(seed))
    return Players({"student": player}), Batch({"tokens": tokens, "mask": mask, "index": torch.arange(V**n)})


def whole(players: Players, batch: Batch) -> Tensor:
    """The log-probability of every answer, with its gradient."""
    logits = players.student(batch.with_(), "head").logits()[:, :-1]
    return logits.log_softmax(-1).gather(-1, batch.tokens[:, 1:, None]).sum((1, 2))


def slope(value: Tensor, players: Players) -> Tensor:
    return torch.autograd.grad(value, players.student.module.table)[0]  # type: ignore[union-attr]


def reward(seed: int = 1) -> Tensor:
    return torch.rand(V**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def surrogate(players: Players, batch: Batch, weight_B: Tensor, **how: float) -> Tensor:
    return clipped_surrogate(**how).spec.fn(players, batch, weight_B[:, None] * batch.mask, **how)


@pytest.mark.parametrize("kept", [False, True])
def test_its_mean_gradient_is_that_of_the_expected_reward(kept: bool) -> None:
    players, batch = world()
    batch = batch.with_(advantage=reward())
    batch = recorded()(players, batch) if kept else batch
    logq = whole(players, batch)
    truth = slope((logq.exp() * reward()).sum(), players)
    got = slope(surrogate(players, batch, logq.exp().detach()), players)
    torch.testing.assert_close(got, -truth)
    assert truth.abs().max() > 1e-3


def test_advantages_of_single_tokens_weigh_their_own_gradients() -> None:
    players, batch = world()
    good_BT = torch.randn(V**n, n + 1, dtype=torch.float64)
    logits = players.student(batch, "head").logits()[:, :-1]
    logp_BT = logits.log_softmax(-1).gather(-1, batch.tokens[:, 1:, None])[..., 0]
    truth = slope((logp_BT * good_BT[:, 1:]).sum(), players)
    got = slope(surrogate(players, batch.with_(advantage=good_BT), torch.ones(V**n)), players)
    torch.testing.assert_close(got, -truth)


@pytest.mark.parametrize(("rule", "factor"), [(leave_one_out, 1.0), (group_relative, 0.5)])
def test_two_copies_compared_have_the_gradient_of_the_reward_or_a_known_share_of_it(rule: Any, factor: float) -> None:
    # the mean over all pairs of answers; a mean that holds the answer itself takes 1 / copies of the gradient
    players, batch = world()
    logq = whole(players, batch)
    truth = slope((logq.exp() * reward()).sum(), players)
    pairs = torch.cartesian_prod(torch.arange(V**n), torch.arange(V**n)).flatten()
    both = take(batch.with_(reward=reward()), pairs.tolist())
    both = both.with_(group=torch.arange(len(pairs)) // 2)
    both = rule(copies=2)(players, both)
    chance = logq.exp().detach()[pairs].view(-1, 2).prod(1).repeat_interleave(2) / 2
    torch.testing.assert_close(slope(surrogate(players, both, chance), players), -factor * truth)


def test_clipping_stops_the_gradient_exactly_where_the_step_went_too_far() -> None:
    players, batch = world()
    ratio = torch.tensor([0.7, 0.79, 0.81, 1.0, 1.19, 1.21, 1.5], dtype=torch.float64)
    rows = take(batch, [5] * 14)
    at = torch.zeros_like(rows.mask).index_fill_(1, torch.tensor(2), True)  # one target a row
    rows = rows.with_(mask=at)
    good = torch.ones(14, dtype=torch.float64)
    good[7:] = -1
    logp = logp_of_tokens(players.student, rows)
    old = (logp - torch.cat((ratio, ratio)).log()[:, None]).where(at, 0.0)
    rows = rows.with_(advantage=good, logp_old=old)
    alive = []
    for b in range(14):
        weight = torch.zeros(14, dtype=torch.float64).index_fill_(0, torch.tensor(b), 1.0)
        value = surrogate(players, rows.with_(), weight)
        r, a = float(torch.cat((ratio, ratio))[b]), float(good[b])
        assert float(value.detach()) == pytest.approx(-min(r * a, min(max(r, 0.8), 1.2) * a))
        alive.append(bool(slope(value, players).any()))
    assert alive == [True] * 5 + [False] * 2 + [False] * 2 + [True] * 5


def test_its_gradient_is_that_of_finite_differences() -> None:
    players, batch = world()
    old = world(seed=3)[0]
    rows = take(batch, list(range(0, 27, 2)))
    good = torch.randn(len(rows["index"]), dtype=torch.float64)
    rows = rows.with_(advantage=good, logp_old=logp_of_tokens(old.student, rows))
    weight = torch.rand(rows.mask.shape, dtype=torch.float64)

    def total(hidden: Tensor, matrix: Tensor) -> Tensor:
        head = TokenHead(hidden, matrix)
        student = Player("student", frozen(), answer=lambda batch, want: {"head": head})
        return clipped_surrogate.fn(Players({"student": student}), rows.with_(), weight, low=0.3, high=0.5)

    made = players.student(rows.with_(), "head")
    leaves = (made.hidden.detach().requires_grad_(), made.weight.clone().requires_grad_())
    assert torch.autograd.gradcheck(total, leaves)


def test_what_is_recorded_is_the_log_softmax_of_the_targets_alone() -> None:
    lm = CausalLM(tiny(LlamaConfig))
    players = Players({"student": Player("student", frozen(), lm)})
    rows = Batch(columns([[2, 5], [2, 7, 9]], [[6, 8, 1], [4, 1]]))
    got = recorded()(players, rows)["logp_old"]
    logp = lm({"tokens": rows.tokens}, frozenset({"logits"}))["logits"].log_softmax(-1)
    for b, t in product(*map(range, got.shape)):
        truth = logp[b, t - 1, rows.tokens[b, t]] if rows.mask[b, t] else torch.tensor(0.0)
        torch.testing.assert_close(got[b, t], truth.detach())
    assert got.dtype == torch.float32 and not got.requires_grad


def test_answers_are_marked_by_what_they_say() -> None:
    tokenizer = byte_tokenizer(None)
    lm = CausalLM(tiny(LlamaConfig, 0, vocab_size=len(tokenizer)), tokenizer)
    said = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the Nile", "the Rhine")]
    rows = Batch({**columns([[1], [1]], said), "answer": ["Nile", "Nile"]})
    made = graded()(Players({"student": Player("student", frozen(), lm)}), rows)
    assert made["reward"].tolist() == [1.0, 0.0] and made["reward"].dtype == torch.float32


NOBODY = Players({})
RULES = [group_relative, group_standardised, leave_one_out]


def copied(rewards: list[float], copies: int, index: list[int] | None = None) -> Batch:
    rows = len(rewards) // copies
    made = repeated(copies=copies)(NOBODY, Batch({"index": torch.tensor(index or list(range(rows)))}))
    return made.with_(reward=torch.tensor(rewards, dtype=torch.float64))


@pytest.mark.parametrize(
    ("rule", "truth"),
    [
        (group_relative(copies=4), [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]),
        (leave_one_out(copies=4), [1, -1 / 3, -1 / 3, -1 / 3, 0, 0, 0, 0]),
        (group_standardised(copies=4, eps=0.5), [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]),  # a deviation of 1/2
    ],
)
def test_advantages_by_hand(rule: Part, truth: list[float]) -> None:
    got = rule(NOBODY, copied([1, 0, 0, 0, 1, 1, 1, 1], 4))["advantage"]
    torch.testing.assert_close(got, torch.tensor(truth, dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(RULES), st.integers(1, 4), st.integers(1, 5))
def test_groups_are_kept_apart_whatever_was_left_out_and_in_whatever_order(
    data: st.DataObject, rule: Any, rows: int, copies: int
) -> None:
    marks = data.draw(st.lists(st.floats(0, 1), min_size=rows * copies, max_size=rows * copies))
    index = data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))  # rows of the data come twice
    kept = data.draw(st.permutations(range(rows * copies)))[: data.draw(st.integers(1, rows * copies))]
    got = rule(copies=copies)(NOBODY, take(copied(marks, copies, index), kept))["advantage"]
    for g in range(rows):
        mine = [i for i, k in enumerate(kept) if k // copies == g]
        if mine:
            alone = copied([marks[kept[i]] for i in mine], len(mine), [0])
            torch.testing.assert_close(got[mine], rule(copies=len(mine))(NOBODY, alone)["advantage"])
            assert float(got[mine].sum()) == pytest.approx(0, abs=1e-6) and (len(mine) > 1 or not got[mine].any())


def test_two_processes_find_the_groups_of_one() -> None:
    # each has its share of the rows, with the numbers that these have in the whole
    marks = torch.rand(12, dtype=torch.float64).tolist()
    whole_ = group_relative(copies=3)(NOBODY, copied(marks, 3, [7, 7, 7, 7]))["advantage"]
    halves = []
    for at in (0, 2):
        rows = Batch({"index": torch.tensor([7, 7])}, Rng((), torch.arange(at, at + 2)))
        made = repeated(copies=3)(NOBODY, rows)
        made = made.with_(reward=torch.tensor(marks[3 * at : 3 * at + 6], dtype=torch.float64))
        halves.append(group_relative(copies=3)(NOBODY, made)["advantage"])
    torch.testing.assert_close(torch.cat(halves), whole_)


def test_a_column_of_groups_is_taken_at_its_word() -> None:
    rows = Batch({"group": torch.tensor([4, 9, 4]), "reward": torch.tensor([1.0, 0.3, 0.0])})
    assert group_relative()(NOBODY, rows)["advantage"].tolist() == [0.5, 0.0, -0.5]


def test_settings_that_make_no_sense_are_refused() -> None:
    players, batch = world()
    with pytest.raises(BadValue, match="needs copies >= 1, got 0"):
        group_relative(copies=0)(NOBODY, copied([1.0], 1))
    with pytest.raises(BadValue, match="room on both sides of 1"):
        surrogate(players, batch.with_(advantage=reward()), torch.ones(V**n), low=0.0, high=0.2)
