"""Estimators of reverse KL from sampled tokens: their means and those of their derivatives, by enumeration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from limbeck.kernels.fused import fused_sum
from limbeck.kernels.sampled import Sampled, k1, k2, k3, k3_literal
from limbeck.parts.divergence import forward_kl, reverse_kl
from tests.kernels.test_fused import head, learner, leaves

V, T = 6, 0.8


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    drawn = 1.5 * torch.randn(2, 1, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn[0], drawn[1]


def mean(pair: Sampled, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over tokens drawn from the student of the value and of the derivative."""
    value, slope = pair(student.expand(V, V), torch.arange(V), teacher.expand(V, V))
    q = (student[0] / T).softmax(-1)
    return (q * value).sum(), (q[:, None] * slope).sum(0)


def gradient(loss: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    z = student.clone().requires_grad_()
    return torch.autograd.grad(loss(z, teacher, temperature=T).sum(), z)[0][0]


@pytest.mark.parametrize("estimator", [k1, k3, k3_literal])
def test_values_that_are_said_to_be_unbiased_are(
    estimator: Callable[[float], Sampled], logits: tuple[Tensor, Tensor]
) -> None:
    torch.testing.assert_close(mean(estimator(T), *logits)[0], reverse_kl(*logits, temperature=T)[0])


def test_k2_is_biased_by_the_third_order(logits: tuple[Tensor, Tensor]) -> None:
    # its bias falls with the cube of the distance, KL with the square
    student, teacher = logits
    apart = [student + h * (teacher - student) for h in (1.0, 0.1, 0.01)]
    biases = [(mean(k2(T), student, t)[0] - reverse_kl(student, t, temperature=T)).abs().item() for t in apart]
    assert biases[0] > 1e-2
    assert biases[1] < biases[0] / 200 and biases[2] < biases[1] / 800


@pytest.mark.parametrize("estimator", [k1, k2, k3])
def test_derivatives_have_the_mean_of_that_of_reverse_kl(
    estimator: Callable[[float], Sampled], logits: tuple[Tensor, Tensor]
) -> None:
    torch.testing.assert_close(mean(estimator(T), *logits)[1], gradient(reverse_kl, *logits))


def test_the_literal_derivative_of_k3_has_the_mean_of_that_of_forward_kl(logits: tuple[Tensor, Tensor]) -> None:
    got = mean(k3_literal(T), *logits)[1]
    torch.testing.assert_close(got, gradient(forward_kl, *logits))
    assert (got - gradient(reverse_kl, *logits)).abs().max() > 1e-2


def test_the_literal_derivative_of_k1_would_teach_nothing(logits: tuple[Tensor, Tensor]) -> None:
    z = logits[0].clone().requires_grad_()
    log_q = (z / T).log_softmax(-1)[0]
    (slope,) = torch.autograd.grad((log_q.exp().detach() * log_q).sum(), z)
    assert slope.abs().max() < 1e-12


@pytest.mark.parametrize("estimator", [k2, k3_literal])
def test_own_derivatives_through_the_fused_sum_are_finite_differences(
    estimator: Callable[[float], Sampled],
) -> None:
    student, teacher, weight = learner(0, softcap=3.0), head(1), torch.rand(7, dtype=torch.float64)
    token = torch.tensor([0, 8, 3, 3, 1, 0, 5])

    def total(hidden: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        given = replace(student, hidden=hidden, weight=matrix, bias=bias)
        return fused_sum(given, weight, estimator(T), token, teacher, rows=3)

    assert torch.autograd.gradcheck(total, leaves(student))


def test_k2_and_k3_are_never_negative_and_all_vanish_where_both_agree() -> None:
    student, teacher = 30 * torch.randn(2, 500, V, generator=torch.Generator().manual_seed(1))
    token = torch.arange(500) % V
    for estimator in (k2, k3, k3_literal):
        assert (estimator()(student, token, teacher)[0] >= 0).all()
    assert (k1()(student, token, teacher)[0] < 0).any()
    for estimator in (k1, k2, k3, k3_literal):
        value, slope = estimator()(student, token, student.clone())
        assert not value.any() and not slope.any()


def test_log_probabilities_that_are_told_serve_as_well(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = (z.expand(V, V) for z in logits)
    logp = (teacher / T).log_softmax(-1)[0]
    torch.testing.assert_close(k3(T).told(student, torch.arange(V), logp), k3(T)(student, torch.arange(V), teacher))
