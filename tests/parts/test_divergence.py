"""Divergences against SciPy, their limits and their symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from limbeck.errors import BadValue
from limbeck.parts.divergence import forward_kl, jsd, reverse_kl


def logits(seed: int, rows: int = 7, size: int = 11, spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = spread * torch.randn(2, rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn[0], drawn[1]


def scipy_kl(a: torch.Tensor, b: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    p, q = (softmax(z.numpy() / temperature, axis=-1) for z in (a, b))
    return rel_entr(p, q).sum(-1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), temperature=st.floats(0.3, 5), beta=st.floats(0.01, 0.99))
def test_values_are_those_of_scipy(seed: int, temperature: float, beta: float) -> None:
    student, teacher = logits(seed)
    np.testing.assert_allclose(
        forward_kl(student, teacher, temperature=temperature), scipy_kl(teacher, student, temperature), atol=1e-12
    )
    np.testing.assert_allclose(
        reverse_kl(student, teacher, temperature=temperature), scipy_kl(student, teacher, temperature), atol=1e-12
    )
    p, q = (softmax(z.numpy() / temperature, axis=-1) for z in (teacher, student))
    m = beta * p + (1 - beta) * q
    expected = beta * rel_entr(p, m).sum(-1) + (1 - beta) * rel_entr(q, m).sum(-1)
    np.testing.assert_allclose(jsd(student, teacher, beta=beta, temperature=temperature), expected, atol=1e-12)


def test_jsd_over_beta_tends_to_the_two_kl_divergences() -> None:
    # first-order: the error of the quotient falls in proportion to the distance from the end
    student, teacher = logits(0, spread=1.0)
    for end, limit in ((0.0, forward_kl), (1.0, reverse_kl)):
        exact = limit(student, teacher)
        assert torch.equal(jsd(student, teacher, beta=end), exact)
        errors = [(jsd(student, teacher, beta=abs(end - h)) / h - exact).abs().max() for h in (1e-3, 1e-4, 1e-5)]
        assert errors[2] < 1e-2
        assert errors[2] < errors[1] / 3 < errors[0] / 9


def test_jsd_is_symmetric_at_one_half_and_only_there() -> None:
    a, b = logits(1)
    torch.testing.assert_close(jsd(a, b, beta=0.5), jsd(b, a, beta=0.5), rtol=1e-12, atol=0)
    torch.testing.assert_close(jsd(a, b, beta=0.1), jsd(b, a, beta=0.9), rtol=1e-12, atol=0)
    assert (jsd(a, b, beta=0.1) - jsd(b, a, beta=0.1)).abs().max() > 1e-2


def test_beta_means_what_it_means_in_trl() -> None:
    # TRL, by its formula: M = (1 - beta) student + beta teacher; beta KL(teacher || M) + (1 - beta) KL(student || M);
    # and its ends are KL(teacher || student) at 0, KL(student || teacher) at 1
    student, teacher = logits(2)
    q, p = student.softmax(-1), teacher.softmax(-1)
    for beta in (0.1, 0.5, 0.9):
        m = (1 - beta) * q + beta * p
        trl = beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)
        torch.testing.assert_close(jsd(student, teacher, beta=beta), trl)
    np.testing.assert_allclose(jsd(student, teacher, beta=0.0), scipy_kl(teacher, student))
    np.testing.assert_allclose(jsd(student, teacher, beta=1.0), scipy_kl(student, teacher))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_extreme_logits_give_exact_values_and_finite_gradients(dtype: torch.dtype) -> None:
    # masses of 0 and 1 apart by logits of 10^4: KL is the gap of the logits, JSD is bounded by its entropy of mixing
    student = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]], dtype=dtype)
    gap = (teacher[0, 1] - teacher[0, 0]).double().item()
    for beta, expected in ((0.0, gap), (1.0, gap), (0.5, math.log(2)), (0.25, 0.5623351446188083)):
        value = jsd(student, teacher, beta=beta)
        torch.testing.assert_close(
            value.double(), torch.tensor([expected, 0.0], dtype=torch.float64), rtol=1e-6, atol=1e-7
        )
        (grad,) = torch.autograd.grad(value.sum(), student)
        assert grad.isfinite().all()


def test_tokens_that_neither_can_say_change_nothing() -> None:
    student, teacher = logits(3)
    never = torch.full((7, 2), -torch.inf, dtype=torch.float64)
    for beta in (0.0, 0.3, 1.0):
        wide = torch.cat((student, never), -1).requires_grad_()
        value = jsd(wide, torch.cat((teacher, never), -1), beta=beta)
        torch.testing.assert_close(value, jsd(student, teacher, beta=beta))
        (grad,) = torch.autograd.grad(value.sum(), wide)
        assert grad.isfinite().all() and (grad[:, -2:] == 0).all()


def test_mass_where_the_other_has_none_is_infinitely_far() -> None:
    half, all_ = torch.tensor([0.0, 0.0]), torch.tensor([0.0, -torch.inf])
    # student half, teacher all: KL(p || q) = log 2, KL(q || p) infinite, as rel_entr has it
    assert forward_kl(half, all_).item() == pytest.approx(math.log(2))
    assert reverse_kl(half, all_).item() == math.inf
    assert jsd(half, all_).item() == pytest.approx(0.75 * math.log(4 / 3), abs=1e-6)


def test_senseless_settings_are_refused() -> None:
    z = torch.zeros(2)
    with pytest.raises(BadValue, match=r"beta in \[0, 1\]"):
        jsd(z, z, beta=1.5)
    with pytest.raises(BadValue, match="temperature above 0"):
        forward_kl(z, z, temperature=0.0)
