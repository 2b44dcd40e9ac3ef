from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from torch import nn

from limbeck.adapters.modules import Plain
from limbeck.batch import Batch
from limbeck.parts import classification, likelihood
from limbeck.players import Player, Players
from limbeck.roles import frozen

BATCH = Batch({"x": torch.arange(3), "y": torch.tensor([0, 2, 1])})


class Lookup(nn.Module):
    """Scores of row x are row x of a table."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[x]


def players(seed: int = 0, scale: float = 2.0) -> Players:
    g = torch.Generator().manual_seed(seed)
    tables = {n: scale * torch.randn(3, 4, generator=g, dtype=torch.float64) for n in ("student", "teacher")}
    return Players({n: Player(n, frozen(), Plain(Lookup(t))) for n, t in tables.items()})


def tables(of: Players) -> tuple[torch.Tensor, torch.Tensor]:
    return of.student.net.table, of.teacher.net.table


@given(st.integers(0, 1000), st.floats(0.5, 20))
def test_kl_is_scipys_relative_entropy_times_the_squared_temperature(seed: int, temperature: float) -> None:
    ps = players(seed)
    s, t = (softmax(v.detach().numpy() / temperature, -1) for v in tables(ps))
    ours = classification.kl(temperature=temperature)(ps, BATCH.with_()).detach().numpy()
    assert ours == pytest.approx(temperature**2 * rel_entr(t, s).sum(-1), rel=1e-9, abs=1e-11)


def test_kl_tends_to_half_the_squared_distance_of_centred_scores() -> None:
    # T^2 KL -> 1 / (2 C) sum_c (s_c - t_c)^2 for centred scores (Hinton et al., equation 4)
    ps = players()
    for p in ps.values():
        p.net.table.data -= p.net.table.data.mean(-1, keepdim=True)
    hot = classification.kl(temperature=1e4)(ps, BATCH.with_())
    torch.testing.assert_close(hot, classification.mse_logits()(ps, BATCH.with_()) / 2, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "loss", [classification.kl(), classification.squared_error(), likelihood.imitation(), likelihood.likelihood()]
)
def test_gradients_equal_finite_differences_and_none_reaches_the_teacher(loss) -> None:  # type: ignore[no-untyped-def]
    ps = players()
    student, teacher = tables(ps)
    teacher.requires_grad_(False)
    value = loss(ps, BATCH.with_())
    value.sum().backward()
    assert value.shape == (3,)
    step = 1e-6
    for i, j in ((0, 0), (1, 3), (2, 1)):
        ends = []
        for sign in (1, -1):
            student.data[i, j] += sign * step
            ends.append(loss(ps, BATCH.with_()).sum().item())
            student.data[i, j] -= sign * step
        assert student.grad[i, j].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)


def test_cross_entropy_with_smoothing_is_the_formula() -> None:
    ps = players()
    p = softmax(tables(ps)[0].detach().numpy(), -1)
    for row, value in enumerate(classification.cross_entropy(smoothing=0.1)(ps, BATCH.with_()).tolist()):
        target = [0.9 * (c == int(BATCH.y[row])) + 0.1 / 4 for c in range(4)]
        assert value == pytest.approx(-sum(t * math.log(q) for t, q in zip(target, p[row], strict=True)))


def test_a_perfect_student_loses_nothing_to_its_teacher() -> None:
    ps = players()
    ps.student.net.table.data.copy_(ps.teacher.net.table.data)
    for loss in (classification.kl(), classification.mse_logits(), classification.squared_error()):
        assert loss(ps, BATCH.with_()).abs().max() < 1e-12
