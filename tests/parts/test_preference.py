"""Preferences: losses against closed forms, SciPy and enumeration; pairs against a verifier asked by hand."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_expit
from torch import Tensor
from torch.nn.functional import log_softmax

from limbeck.batch import Batch
from limbeck.beds._text import columns
from limbeck.beds.chain import base, right_answer
from limbeck.errors import BadData, BadValue
from limbeck.kernels.head import TokenHead
from limbeck.parts.preference import (
    direct_preference,
    mean_log_likelihood,
    paired,
    plackett_luce,
    rank_log_likelihoods,
    ranked,
    reinforced_contrast,
    same_prompt,
    sequence_log_likelihood,
    token_log_likelihoods,
)
from limbeck.parts.transcript import answers
from limbeck.players import Player, Players
from limbeck.roles import frozen

V, D = 7, 4


class Net(torch.nn.Module):
    """A language model that sees the last token only: its states are rows of a table."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.table, self.matrix = (
            torch.nn.Parameter(torch.randn(V, D, generator=g, dtype=torch.float64)) for _ in range(2)
        )

    def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
        return {"head": TokenHead(self.table[batch["tokens"]], self.matrix, scale=0.7)}

    def logp(self, prompt: list[int], answer: list[int]) -> Tensor:
        """The truth, token by token."""
        whole = [*prompt, *answer]
        terms = [
            log_softmax(0.7 * self.table[whole[t - 1]] @ self.matrix.mT, -1)[whole[t]]
            for t in range(len(prompt), len(whole))
        ]
        return torch.stack(terms).sum()


PROMPTS = [[1, 2], [3]]
RANKS = [[[4, 5, 6], [2, 2]], [[5], [6, 1, 3, 4]], [[6, 4], [1]]]  # rank by rank, the answers to both prompts


def batch_of(ranks: list[list[list[int]]] = RANKS) -> Batch:
    made = [columns(PROMPTS, rank) for rank in ranks]
    worse = {f"rank{k}.{n}": m[n] for k, m in enumerate(made[1:], 2) for n in ("tokens", "mask")}
    return Batch({**made[0], **worse})


def game(seed: int = 0) -> Players:
    return Players({name: Player(name, frozen(), Net(seed + i)) for i, name in enumerate(("student", "reference"))})


def truth(net: Net, mean: bool = False, ranks: list[list[list[int]]] = RANKS) -> Tensor:
    rows = [[net.logp(p, y) / (len(y) if mean else 1) for p, y in zip(PROMPTS, rank, strict=True)] for rank in ranks]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("mean", [False, True])
def test_log_likelihoods_are_those_of_each_answer_alone(mean: bool) -> None:
    players = game()
    net: Any = players.student.module
    torch.testing.assert_close(rank_log_likelihoods(players.student, batch_of(), mean=mean), truth(net, mean))
    one = Batch(columns(PROMPTS, RANKS[0]))
    whole, each = sequence_log_likelihood(players.student, one), mean_log_likelihood(players.student, one)
    torch.testing.assert_close(whole, truth(net)[0])
    torch.testing.assert_close(each * torch.tensor([3.0, 2.0]), whole)


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_chunks_change_neither_values_nor_gradients(rows: int) -> None:
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*s, generator=g, dtype=torch.float64, requires_grad=True) for s in ((5, D), (V, D)))
    token = torch.tensor([0, 6, 3, 3, 1])

    def chunked(hidden: Tensor, weight: Tensor) -> Tensor:
        return token_log_likelihoods(TokenHead(hidden, weight, softcap=3.0), token, rows=rows)

    plain = log_softmax(3 * torch.tanh(hidden @ weight.mT / 3), -1).gather(-1, token[:, None])[:, 0]
    torch.testing.assert_close(chunked(hidden, weight), plain)
    assert torch.autograd.gradcheck(chunked, (hidden, weight))


def test_nothing_as_large_as_all_logits_is_held() -> None:
    n, size = 64, 300
    hidden, weight, token = torch.randn(n, D, requires_grad=True), torch.randn(size, D), torch.zeros(n).long()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        log_softmax(hidden @ weight.mT, -1).gather(-1, token[:, None]).sum()
        assert sum(kept) >= n * size  # so the measure sees what is held
        kept.clear()
        token_log_likelihoods(TokenHead(hidden, weight), token, rows=8).sum()
        assert sum(kept) < size


def test_no_target_has_no_likelihood() -> None:
    assert token_log_likelihoods(TokenHead(torch.zeros(0, D), torch.ones(V, D)), torch.zeros(0).long()).shape == (0,)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_direct_preference_is_the_formula_by_scipy(beta: float) -> None:
    players = game()
    mine, theirs = (truth(players[n].module, ranks=RANKS[:2]).detach().numpy() for n in ("student", "reference"))
    ratio = mine - theirs
    want = -log_expit(beta * (ratio[0] - ratio[1]))
    got = direct_preference(beta=beta)(players, batch_of(RANKS[:2]))
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-12)
    got.sum().backward()
    assert players.reference.module.table.grad is None and players.student.module.table.grad.any()
    # the gradient by hand: beta sigmoid(-beta gap) (d log pi(y2) - d log pi(y1))
    pull = beta * (1 - torch.from_numpy(np.exp(-want)))
    net: Any = players.student.module
    better, worse = truth(net, ranks=RANKS[:2])
    (by_hand,) = torch.autograd.grad((pull * (worse - better)).sum(), net.table)
    torch.testing.assert_close(net.table.grad, by_hand)


def test_at_the_reference_nothing_is_preferred() -> None:
    same = Player("student", frozen(), Net(0))
    got = direct_preference()(Players({"student": same, "reference": same}), batch_of(RANKS[:2]))
    torch.testing.assert_close(got, torch.full((2,), 2.0, dtype=torch.float64).log())


@pytest.mark.parametrize("alpha", [0.0, 0.8, 1.0])
def test_contrast_is_its_formula(alpha: float) -> None:
    players = game()
    better, worse = truth(players.student.module, mean=True, ranks=RANKS[:2])
    got = reinforced_contrast(alpha=alpha)(players, batch_of(RANKS[:2]))
    torch.testing.assert_close(got, -better + alpha * worse)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 3))
def test_all_orders_together_have_probability_one(seed: int, scale: float) -> None:
    players = game(seed)
    loss = plackett_luce(scale=scale)
    total = sum((-loss(players, batch_of([RANKS[k] for k in order]))).exp() for order in permutations(range(3)))
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64))


def test_plackett_luce_of_two_is_bradley_and_terry() -> None:
    players = game()
    better, worse = truth(players.student.module, mean=True, ranks=RANKS[:2]).detach().numpy()
    got = plackett_luce(scale=1.7)(players, batch_of(RANKS[:2])).detach().numpy()
    np.testing.assert_allclose(got, -log_expit(1.7 * (better - worse)), rtol=1e-12)


@pytest.mark.parametrize("loss", [direct_preference(), plackett_luce(), reinforced_contrast()])
def test_a_row_does_not_depend_on_its_neighbours(loss: Any) -> None:
    players, batch = game(), batch_of(RANKS[:2])
    each = torch.cat([loss(players, batch.rows(slice(b, b + 1))) for b in range(2)])
    torch.testing.assert_close(loss(players, batch), each)


def test_wrong_numbers_of_answers_are_refused() -> None:
    players = game()
    with pytest.raises(BadData, match="one answer each"):
        ranked(batch_of(RANKS[:1]))
    for loss in (direct_preference(), reinforced_contrast()):
        with pytest.raises(BadData, match="got 3 ranked answers"):
            loss(players, batch_of())
    with pytest.raises(BadValue, match="alpha"):
        reinforced_contrast(alpha=1.5)(players, batch_of(RANKS[:2]))


@pytest.fixture(scope="module")
def chain() -> Players:
    return Players({"student": Player("student", frozen(), base())})


def said(chain: Players, rows: list[tuple[str, str, str]]) -> Batch:
    """Rows of question, answer given and right answer."""
    code = chain.student.tokenizer
    prompts = [code(q)["input_ids"] for q, _, _ in rows]
    coded = [[*code(y, add_special_tokens=False)["input_ids"], code.eos_token_id] for _, y, _ in rows]
    return Batch({**columns(prompts, coded), "question": [q for q, _, _ in rows], "answer": [a for _, _, a in rows]})


@pytest.mark.parametrize(
    ("most", "pairs"), [(1, [("73", "79"), ("10", "11")]), (9, [("73", "79"), ("83", "70"), ("10", "11")])]
)
def test_right_answers_are_paired_with_wrong_ones_to_the_same_prompt(
    chain: Players, most: int, pairs: list[tuple[str, str]]
) -> None:
    one, two, three = ("3+4*2=", "3"), ("1+0-1=", "0"), ("1+0-2=", "a")
    asked = [(one, "79"), (two, "11"), (one, "73"), (one, "70"), (three, "1a"), (one, "83"), (two, "10"), (one, "74")]
    made = paired(verifier=right_answer(), most=most)(chain, said(chain, [(q, y, a) for (q, a), y in asked]))
    second = made.with_(tokens=made["rank2.tokens"], mask=made["rank2.mask"])
    found = list(zip(answers(chain.student, made), answers(chain.student, second), strict=True))
    assert sorted(found) == sorted(pairs)
    prompts = [row[:n].tolist() for batch in (made, second) for row, n in zip(batch.tokens, batch.prompt, strict=True)]
    assert prompts[: made.size] == prompts[made.size :]


def test_no_pair_leaves_no_row(chain: Players) -> None:
    made = paired(verifier=right_answer())(chain, said(chain, [("3+4*2=", "73", "3"), ("1+0-1=", "11", "0")]))
    assert made.size == 0 and "rank2.tokens" in made


@given(prompts=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_groups_are_a_partition_by_prompt(prompts: list[int]) -> None:
    tokens = torch.tensor([[1, p, 9 - i % 3] for i, p in enumerate(prompts)])
    groups = same_prompt(Batch({"tokens": tokens, "prompt": torch.full((len(prompts),), 2)}))
    assert sorted(row for group in groups for row in group) == list(range(len(prompts)))
    assert [{prompts[row] for row in group} for group in groups] == [{p} for p in dict.fromkeys(prompts)]
