"""Forward KL held down term by term, against sums written out and finite differences; weights by place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.kernels.clipped import clipped_forward_kl_terms
from limbeck.kernels.divergence import Divergence
from limbeck.kernels.head import TokenHead
from limbeck.part import part
from limbeck.parts.clipped import clipped_forward_kl, later
from limbeck.parts.token import forward_kl, sequence_mean
from limbeck.players import Player, Players
from limbeck.roles import frozen


def drawn(n: int, v: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(n, v, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def test_every_term_is_cut_before_the_sum() -> None:
    student, teacher = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.8, 0.1, 0.1]]).log()
    terms = [0.8 * torch.tensor(1.6).log(), 0.1 * torch.tensor(0.4).log(), 0.1 * torch.tensor(0.4).log()]
    value, _ = Divergence(clipped_forward_kl_terms(0.05))(student, teacher)
    assert float(value) == pytest.approx(0.05 + float(terms[1] + terms[2]), abs=1e-6)
    # a bound on the sum would leave it as it is, for it is below 0.05 only by its negative terms
    assert float(sum(terms)) > 0.05 > float(value)


@pytest.mark.parametrize("temperature", [1.0, 1.1])
def test_its_derivative_is_that_of_finite_differences(temperature: float) -> None:
    student, teacher = drawn(6, 5)
    pair = Divergence(clipped_forward_kl_terms(0.05), temperature)

    def value(z: Tensor) -> Tensor:
        return pair(z.clone(), teacher.clone())[0]

    slope, step = pair(student.clone(), teacher.clone())[1], 1e-6
    for v in range(5):
        ahead, behind = student.clone(), student.clone()
        ahead[:, v] += step
        behind[:, v] -= step
        torch.testing.assert_close((value(ahead) - value(behind)) / (2 * step), slope[:, v], atol=1e-7, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 1.0))
def test_it_is_at_most_forward_kl_and_equal_to_it_under_a_loose_bound(seed: int, most: float) -> None:
    student, teacher = drawn(3, 4, seed)
    truth = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher), torch.distributions.Categorical(logits=student)
    )
    value = Divergence(clipped_forward_kl_terms(most))(student.clone(), teacher.clone())[0]
    assert bool((value <= truth + 1e-12).all())
    loose = Divergence(clipped_forward_kl_terms(1e6))(student.clone(), teacher.clone())[0]
    torch.testing.assert_close(loose, truth)


def test_where_the_only_term_that_matters_is_cut_the_others_push_away() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[4.0, 0.0]])
    slope = Divergence(clipped_forward_kl_terms(0.05))(student.clone(), teacher.clone())[1]
    plain = Divergence(clipped_forward_kl_terms(1e6))(student.clone(), teacher.clone())[1]
    assert float(plain[0, 0]) < 0 < float(slope[0, 0]) < -0.1 * float(plain[0, 0])


def test_no_mass_is_no_term_and_nan_is_not_lost() -> None:
    pair = Divergence(clipped_forward_kl_terms(0.05))
    value, slope = pair(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -torch.inf]]))
    assert float(value) == pytest.approx(0.05) and bool(slope.isfinite().all())
    assert bool(pair(torch.tensor([[torch.nan, 0.0]]), torch.zeros(1, 2))[0].isnan())
    with pytest.raises(BadValue, match="positive bound, got 0"):
        clipped_forward_kl_terms(0.0)


class Fixed(torch.nn.Module):
    """A language model that says the same logits at every place."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits, requires_grad=False)

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, TokenHead]:
        hidden = self.logits.expand(*batch["tokens"].shape, -1)
        return {"head": TokenHead(hidden, torch.eye(len(self.logits), dtype=hidden.dtype))}


def game() -> tuple[Players, Batch]:
    student, teacher = (Fixed(z[0]) for z in drawn(1, 4))
    players = Players({n: Player(n, frozen(), m) for n, m in {"student": student, "teacher": teacher}.items()})
    mask = torch.tensor([[False, True, True, True, True], [False, True, True, False, False]])
    return players, Batch({"tokens": torch.ones_like(mask, dtype=torch.long), "mask": mask})


def test_the_part_sums_over_weighted_tokens() -> None:
    players, batch = game()
    one = forward_kl()(players, batch, batch.mask) / 6
    assert float(clipped_forward_kl(most=9.0)(players, batch, batch.mask)) == pytest.approx(6 * float(one))
    weight = later()(players, batch)
    expected = float(one) * float(weight[batch.mask].sum())
    assert float(clipped_forward_kl(most=9.0)(players, batch, weight * batch.mask)) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.02, 0.5))
def test_weights_rise_between_their_bounds_and_fall_for_a_negative_width(
    n: int, least: float, middle: float, width: float
) -> None:
    mask = torch.zeros(1, n + 3, dtype=torch.bool)
    mask[0, 2 : n + 2] = True
    batch = Batch({"mask": mask})
    rises = later(least=least, middle=middle, width=width)(None, batch)[mask]
    falls = later(least=least, middle=1 - middle, width=-width)(None, batch)[mask]
    assert bool((rises.diff() >= 0).all()) and bool((rises >= least).all()) and bool((rises <= 1).all())
    torch.testing.assert_close(falls.flip(0), rises)


def test_the_moderate_schedule_is_the_published_one() -> None:
    mask = torch.ones(1, 11, dtype=torch.bool)
    mask[0, 0] = False
    weight = later()(None, Batch({"mask": mask}))[mask]
    u = [(i - 0.5) / 10 for i in range(1, 11)]
    expected = [0.25 + 0.75 / (1 + torch.tensor(-(x - 0.3) / 0.1).exp()) for x in u]
    torch.testing.assert_close(weight, torch.stack(expected))
    with pytest.raises(BadValue, match="width other than 0"):
        later(width=0.0)(None, Batch({"mask": mask}))


@part
def unit(players: Players, batch: Batch) -> Tensor:
    """A loss of 1 a token."""
    return batch["mask"].float()


def test_per_sequence_and_global_reduction_differ_by_length_alone() -> None:
    batch = game()[1]
    weight = later()(None, batch)
    sums = (weight * batch.mask).sum(1)
    whole = (later() * unit()).total(None, batch)["loss"]
    assert float(whole) == pytest.approx(float(sums.sum()) / 6)
    each = (later() * (sequence_mean() * unit())).total(None, batch)["loss"]
    assert float(each) == pytest.approx((float(sums[0]) / 4 + float(sums[1]) / 2) / 2)
    assert float(each) != pytest.approx(float(whole))
    same = batch.with_(mask=batch.mask[:1].expand(2, -1))
    first = (later() * (sequence_mean() * unit())).total(None, same)["loss"]
    torch.testing.assert_close(first, (later() * unit()).total(None, same)["loss"])
