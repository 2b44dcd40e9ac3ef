"""The ratio of whole answers by finite differences on three tokens, and which net each term of pi-Distill moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.kernels.head import TokenHead
from limbeck.part import Expr, part
from limbeck.parts.informed import under
from limbeck.parts.policy import clipped_surrogate
from limbeck.parts.token import cross_entropy
from limbeck.parts.trajectory_ratio import noted_reverse_kl, trajectory_surrogate
from limbeck.players import Player, Players
from limbeck.roles import frozen

V, n, BETA = 3, 3, 0.25
TOKENS = torch.tensor([[0, 1, 2, 0], [0, 0, 1, 1], [0, 2, 2, 1]])


class Both(torch.nn.Module):
    """Logits (place, V) of one player without and with what it is told: two tables of one net."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.plain = torch.nn.Parameter(torch.randn(n, V, generator=g, dtype=torch.float64))
        self.told = torch.nn.Parameter(torch.randn(n, V, generator=g, dtype=torch.float64))

    def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
        table = self.told if "told" in batch else self.plain
        rows = torch.cat((table, table[:1]))[None].expand(len(batch["tokens"]), -1, -1)
        return {"head": TokenHead(rows, torch.eye(V, dtype=torch.float64))}


@part
def tell(players: Players, batch: Batch) -> Batch:
    return batch.with_(told=[""] * batch.size)


def logp(table: Tensor) -> Tensor:
    return table.log_softmax(-1)[torch.arange(n), TOKENS[:, 1:]]


def world() -> tuple[Players, Batch, Both]:
    net = Both()
    mask = torch.tensor([[False, True, True, True]] * 3)
    zero = torch.zeros(3, 1, dtype=torch.float64)
    batch = Batch(
        {
            "tokens": TOKENS, "mask": mask, "advantage": torch.tensor([1.0, -0.5, 0.7], dtype=torch.float64),
            "logp_old": torch.cat((zero, logp(net.told).detach()), 1),
            "logp_plain": torch.cat((zero, logp(net.plain).detach()), 1),
        }
    )  # fmt: skip
    return Players({"student": Player("student", frozen(), net)}), batch, net


def slopes(loss: Expr, players: Players, batch: Batch, net: Both) -> tuple[Tensor, Tensor]:
    """The derivatives by both tables of the sum over tokens."""
    total = torch.stack(list(loss.total(players, batch).values())).sum() * batch.counts["tokens"]
    found = torch.autograd.grad(total, (net.plain, net.told), allow_unused=True)  # type: ignore[arg-type]
    return tuple(torch.zeros_like(net.plain) if g is None else g for g in found)  # type: ignore[return-value]


def differences(value: Any, table: Tensor, h: float = 1e-6) -> Tensor:
    """Central differences of value(table)."""
    out = torch.zeros_like(table)
    for i in range(n):
        for v in range(V):
            step = torch.zeros_like(table)
            step[i, v] = h
            out[i, v] = (value(table + step) - value(table - step)) / (2 * h)
    return out


def of_answers(table: Tensor, old: Tensor, good: Tensor) -> Tensor:
    """-sum_b min(r A, clip(r) A) with one ratio an answer, written down again."""
    ratio = (logp(table) - old).sum(1).exp()
    return -torch.minimum(ratio * good, ratio.clamp(0.8, 1.2) * good).sum()


def test_the_ratio_of_an_answer_has_the_derivative_of_finite_differences() -> None:
    players, batch, net = world()
    plain, told = slopes(trajectory_surrogate(), players, batch, net)
    old, good = batch.logp_old[:, 1:], batch.advantage
    torch.testing.assert_close(
        plain, differences(lambda t: of_answers(t, old, good), net.plain.detach()), atol=1e-7, rtol=1e-6
    )
    assert not told.any() and plain.abs().max() > 1e-3
    value = trajectory_surrogate().total(players, batch)["loss"] * 9
    torch.testing.assert_close(value.detach(), of_answers(net.plain, old, good).detach())


def test_a_ratio_that_is_cut_does_not_pull() -> None:
    players, batch, net = world()
    far = batch.with_(logp_old=batch.logp_plain - 1.0, advantage=torch.ones(3).double())
    assert not slopes(trajectory_surrogate(), players, far, net)[0].any()
    bad = far.with_(advantage=-torch.ones(3).double())
    assert slopes(trajectory_surrogate(), players, bad, net)[0].any()
    with pytest.raises(BadValue, match="both sides of 1"):
        trajectory_surrogate(low=0.0).total(players, batch)


def test_the_teacher_s_term_moves_what_is_told_alone() -> None:
    """J_T = E_{o ~ pi_T}[R] - beta KL(pi_T || sg pi_S): of the KL, the score-function estimate at the same answers."""
    players, batch, net = world()
    loss = under(context=tell(), loss=clipped_surrogate() + BETA * noted_reverse_kl())
    plain, told = slopes(loss, players, batch, net)
    old, fixed = batch.logp_old[:, 1:], batch.logp_plain[:, 1:]
    gap = (logp(net.told) - fixed).detach()

    def value(table: Tensor) -> Tensor:
        ratio = (logp(table) - old).exp()
        return -(ratio * batch.advantage[:, None]).sum() + BETA * (gap * logp(table)).sum()

    torch.testing.assert_close(told, differences(value, net.told.detach()), atol=1e-7, rtol=1e-6)
    assert not plain.any()


def test_the_student_s_term_moves_what_is_not_told_alone() -> None:
    """J_S = E_{o ~ pi_T}[r A] - beta KL(sg pi_T || pi_S), at answers of pi_T."""
    players, batch, net = world()
    plain, told = slopes(trajectory_surrogate() + BETA * cross_entropy(), players, batch, net)
    old, good = batch.logp_old[:, 1:], batch.advantage

    def value(table: Tensor) -> Tensor:
        return of_answers(table, old, good) + BETA * (old - logp(table)).sum()

    torch.testing.assert_close(plain, differences(value, net.plain.detach()), atol=1e-7, rtol=1e-6)
    assert not told.any()


def test_nearness_is_estimated_without_bias_by_the_student_s_own_tokens() -> None:
    # over every token of one place, weighted by how likely it is: the value and the slope of KL(q || p) itself
    logits = torch.randn(V, dtype=torch.float64, requires_grad=True)
    logp_V = torch.randn(V, dtype=torch.float64).log_softmax(-1)
    tokens = torch.stack((torch.zeros(V, dtype=torch.long), torch.arange(V)), 1)
    mask = torch.tensor([[False, True]] * V)
    noted = torch.stack((torch.zeros(V, dtype=torch.float64), logp_V), 1)

    class One(torch.nn.Module):
        def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
            return {"head": TokenHead(logits.expand(V, 2, V), torch.eye(V, dtype=torch.float64))}

    players = Players({"student": Player("student", frozen(), One())})
    batch = Batch({"tokens": tokens, "mask": mask, "logp_plain": noted})
    q = logits.softmax(-1)
    got = noted_reverse_kl.fn(players, batch, torch.stack((torch.zeros(V), q.detach()), 1))
    want = (q * (q.log() - logp_V)).sum()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, logits)[0], torch.autograd.grad(want, logits)[0])
