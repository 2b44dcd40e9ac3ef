"""Divergences against SciPy, their limits and their symmetries."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import kl_div, rel_entr, softmax
from scipy.stats import chisquare

from limbeck.errors import BadValue
from limbeck.parts.divergence import (
    alpha_divergence,
    f_divergence,
    forward_kl,
    jsd,
    logit_cosine,
    logit_mse,
    neyman,
    pearson,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    squared_hellinger,
    total_variation,
)


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


ALL: dict[str, Callable[..., torch.Tensor]] = {
    "forward KL": forward_kl, "reverse KL": reverse_kl, "jsd": jsd, "jsd 0.2": partial(jsd, beta=0.2),
    "skew forward": skew_forward_kl, "skew reverse": skew_reverse_kl, "total variation": total_variation,
    "alpha 0.3": partial(alpha_divergence, alpha=0.3), "alpha 1.5": partial(alpha_divergence, alpha=1.5),
    "alpha -1": partial(alpha_divergence, alpha=-1.0), "hellinger": squared_hellinger, "pearson": pearson,
    "neyman": neyman, "jeffreys": partial(f_divergence, generator=lambda u: (u - 1) * u.log()),
}  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), temperature=st.floats(0.5, 5))
def test_other_divergences_are_those_of_scipy(seed: int, temperature: float) -> None:
    student, teacher = logits(seed, spread=1.5)
    q, p = (softmax(z.numpy() / temperature, axis=-1) for z in (student, teacher))
    np.testing.assert_allclose(forward_kl(student, teacher, temperature=temperature), kl_div(p, q).sum(-1), atol=1e-12)
    np.testing.assert_allclose(
        jsd(student, teacher, temperature=temperature), jensenshannon(p, q, axis=-1) ** 2, atol=1e-9
    )
    np.testing.assert_allclose(pearson(student, teacher, temperature=temperature), chisquare(p, q, axis=-1).statistic)
    np.testing.assert_allclose(neyman(student, teacher, temperature=temperature), chisquare(q, p, axis=-1).statistic)
    np.testing.assert_allclose(total_variation(student, teacher, temperature=temperature), abs(p - q).sum(-1) / 2)
    for alpha in (0.1, 0.6):
        for skewed, a, b in ((skew_forward_kl, p, q), (skew_reverse_kl, q, p)):
            got = skewed(student, teacher, alpha=alpha, temperature=temperature)
            np.testing.assert_allclose(got, rel_entr(a, alpha * a + (1 - alpha) * b).sum(-1), atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.01, 8), name=st.sampled_from(list(ALL)))
def test_a_divergence_is_positive_and_zero_between_equals_only(seed: int, spread: float, name: str) -> None:
    student, teacher = logits(seed, spread=spread)
    assert (ALL[name](student, teacher) > 0).all()
    shifted = teacher + torch.randn(7, 1, dtype=torch.float64)  # the same distribution
    assert (ALL[name](shifted, teacher).abs() < 1e-12).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.1, 50), alpha=st.floats(0.01, 0.9))
def test_bounds(seed: int, spread: float, alpha: float) -> None:
    # and Pinsker's inequality, and that of Le Cam, which tie them to each other
    student, teacher = logits(seed, spread=spread)
    far, near = total_variation(student, teacher), squared_hellinger(student, teacher)
    assert (jsd(student, teacher) <= math.log(2) + 1e-12).all()
    assert (far <= 1 + 1e-12).all() and (near <= 1 + 1e-12).all()
    for skewed in (skew_forward_kl, skew_reverse_kl):
        assert (skewed(student, teacher, alpha=alpha) <= -math.log(alpha) + 1e-12).all()
    assert (2 * far**2 <= forward_kl(student, teacher) + 1e-12).all()
    assert (near <= far + 1e-12).all() and (far <= (near * (2 - near)).sqrt() + 1e-9).all()


def test_which_divergences_are_symmetric() -> None:
    a, b = logits(4)
    for name in ("jsd", "total variation", "hellinger", "jeffreys"):
        torch.testing.assert_close(ALL[name](a, b), ALL[name](b, a), rtol=1e-12, atol=0)
    for one, other in ((skew_forward_kl, skew_reverse_kl), (pearson, neyman)):
        torch.testing.assert_close(one(a, b), other(b, a), rtol=1e-12, atol=0)
        assert (one(a, b) - one(b, a)).abs().max() > 1e-2
    torch.testing.assert_close(alpha_divergence(a, b, alpha=0.2), alpha_divergence(b, a, alpha=0.8), rtol=1e-10, atol=0)


def test_limits_are_approached_in_proportion_to_the_distance() -> None:
    student, teacher = logits(5, spread=1.0)
    for family, end, limit in (
        (skew_forward_kl, 0.0, forward_kl), (skew_reverse_kl, 0.0, reverse_kl),
        (alpha_divergence, 0.0, reverse_kl), (alpha_divergence, 1.0, forward_kl),
    ):  # fmt: skip
        exact = limit(student, teacher)
        assert torch.equal(family(student, teacher, alpha=end), exact)
        errors = [(family(student, teacher, alpha=abs(end - h)) - exact).abs().max() for h in (1e-2, 1e-3, 1e-4)]
        assert errors[2] < 1e-2
        assert errors[2] < errors[1] / 5 < errors[0] / 25


def test_special_cases_of_the_alpha_divergence() -> None:
    student, teacher = logits(6)
    for alpha, factor, other in ((0.5, 4, squared_hellinger), (2.0, 0.5, pearson), (-1.0, 0.5, neyman)):
        torch.testing.assert_close(alpha_divergence(student, teacher, alpha=alpha), factor * other(student, teacher))


def test_generators_give_their_divergences() -> None:
    student, teacher = logits(7)
    for generator, other in (
        (lambda u: torch.xlogy(u, u), forward_kl), (lambda u: -u.log(), reverse_kl),
        (lambda u: (u - 1).abs() / 2, total_variation), (lambda u: (u.sqrt() - 1).square() / 2, squared_hellinger),
        (lambda u: (u - 1).square(), pearson), (lambda u: (u - 1).square() / u, neyman),
        (lambda u: torch.xlogy(u, u) / 2 - (1 + u) / 2 * ((1 + u) / 2).log(), jsd),
    ):  # fmt: skip
        torch.testing.assert_close(f_divergence(student, teacher, generator), other(student, teacher))
    with pytest.raises(BadValue, match="must be 0 at 1, it is 1"):
        f_divergence(student, teacher, lambda u: u)


def test_losses_of_raw_logits_see_what_distributions_do_not() -> None:
    student, teacher = logits(8)
    np.testing.assert_allclose(logit_mse(student, teacher), np.square(student.numpy() - teacher.numpy()).mean(-1))
    norms = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    np.testing.assert_allclose(logit_cosine(student, teacher), 1 - (student * teacher).sum(-1).numpy() / norms)
    torch.testing.assert_close(logit_mse(teacher + 2, teacher), torch.full((7,), 4.0, dtype=torch.float64))
    assert (logit_cosine(3 * teacher, teacher).abs() < 1e-12).all()


def test_senseless_settings_are_refused() -> None:
    z = torch.zeros(2)
    with pytest.raises(BadValue, match=r"beta in \[0, 1\]"):
        jsd(z, z, beta=1.5)
    for skewed in (skew_forward_kl, skew_reverse_kl):
        with pytest.raises(BadValue, match=rf"{skewed.__name__} needs alpha in \[0, 1\), got 1"):
            skewed(z, z, alpha=1.0)
    with pytest.raises(BadValue, match="temperature above 0"):
        forward_kl(z, z, temperature=0.0)
