"""Teachers known by lists: against SciPy over buckets, against whole distributions, and by enumeration of draws."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from torch import Tensor

from limbeck.errors import BadValue
from limbeck.kernels import divergence as kernels
from limbeck.kernels.divergence import Divergence, cross_entropy_pair, listed_cross_entropy_pair
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.head import TokenHead
from limbeck.parts.divergence import bucketed, forward_kl, reverse_kl
from tests.kernels.test_fused import PLAIN, head, learner, leaves

N, V, K = 7, 9, 3


def logits(seed: int, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    drawn = spread * torch.randn(2, N, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn[0], drawn[1]


def likeliest(teacher: Tensor, k: int = K) -> tuple[Tensor, Tensor]:
    top = teacher.log_softmax(-1).topk(k, sorted=False)
    return top.indices, top.values


def padded(ids: Tensor, logp: Tensor) -> tuple[Tensor, Tensor]:
    """The same lists with padding, which names a token that is listed, one that is not, and none at all."""
    none = torch.full_like(logp[:, :1], -torch.inf)
    pads = [ids[:, 1:2], (ids[:, :1] + 1) % V, torch.full_like(ids[:, :1], -1)]
    wide = torch.cat((pads[0], ids[:, :1], pads[1], ids[:, 1:], pads[2]), 1).int()
    return wide, torch.cat((none, logp[:, :1], none, logp[:, 1:], none), 1)


def test_buckets_are_those_of_scipy() -> None:
    student, teacher = logits(0)
    ids, logp = likeliest(teacher)
    q, p = student.softmax(-1).numpy(), teacher.softmax(-1).numpy()
    both = []
    for side in (p, q):
        kept = np.take_along_axis(side, ids.numpy(), -1)
        both.append(np.concatenate((kept, 1 - kept.sum(-1, keepdims=True)), -1))
    want = {"forward KL": rel_entr(*both).sum(-1), "reverse KL": rel_entr(*both[::-1]).sum(-1)}
    m = (both[0] + both[1]) / 2
    want["jsd"] = (rel_entr(both[0], m) + rel_entr(both[1], m)).sum(-1) / 2
    for beta, name in ((0.0, "forward KL"), (1.0, "reverse KL"), (0.5, "jsd")):
        value, _ = Divergence(kernels.jsd_terms(beta)).listed(student, ids, logp)
        np.testing.assert_allclose(value, want[name], atol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_values_and_derivatives_are_those_of_the_plain_form_over_buckets(name: str) -> None:
    terms, plain = PLAIN[name]
    student, teacher = logits(1)
    lists = likeliest(teacher)
    for given_lists in (lists, padded(*lists)):
        z = student.clone().requires_grad_()
        expected = plain(*bucketed(z, *given_lists, temperature=1.7))
        (wanted,) = torch.autograd.grad(expected.sum(), z)
        value, slope = Divergence(terms, 1.7).listed(student, *given_lists)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(slope, wanted, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_gradients_through_the_fused_sum_are_finite_differences(beta: float, softcap: float | None) -> None:
    student, weight = learner(2, softcap=softcap), torch.rand(N, dtype=torch.float64).requires_grad_()
    lists = padded(*likeliest(logits(3)[1]))
    pair = Divergence(kernels.jsd_terms(beta), 1.3).listed

    def total(hidden: Tensor, matrix: Tensor, bias: Tensor, w: Tensor) -> Tensor:
        return fused_sum(replace(student, hidden=hidden, weight=matrix, bias=bias), w, pair, *lists, rows=3)

    assert torch.autograd.gradcheck(total, (*leaves(student), weight))


@pytest.mark.parametrize("name", PLAIN)
def test_a_list_of_all_tokens_is_the_whole_distribution(name: str) -> None:
    divergence = Divergence(PLAIN[name][0])
    student, teacher = logits(4)
    value, slope = divergence.listed(student, *likeliest(teacher, V))
    want, wanted = divergence(student, teacher)
    torch.testing.assert_close(value, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slope, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["forward KL", "jsd", "skew forward", "skew reverse", "total variation", "hellinger"])
def test_a_list_that_sums_to_one_is_a_teacher_who_says_nothing_else(name: str) -> None:
    divergence = Divergence(PLAIN[name][0])
    student, teacher = logits(5)
    ids, logp = likeliest(teacher)
    silent = torch.full_like(teacher, -torch.inf).scatter(-1, ids, logp)
    value, slope = divergence.listed(student, ids, logp.log_softmax(-1))
    want, wanted = divergence(student, silent)
    torch.testing.assert_close(value, want, rtol=0, atol=1e-6)  # the square root of the dtype's rounding, for Hellinger
    torch.testing.assert_close(slope, wanted, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V - 1), name=st.sampled_from(list(PLAIN)))
def test_putting_tokens_together_never_takes_distributions_apart(seed: int, k: int, name: str) -> None:
    # the data-processing inequality of f-divergences, and the same down a chain of ever shorter lists
    divergence = Divergence(PLAIN[name][0])
    student, teacher = logits(seed)
    whole, _ = divergence(student, teacher)
    longer, shorter = (divergence.listed(student, *likeliest(teacher, n))[0] for n in (k + 1, k))
    slack = 1e-9 * (1 + whole.abs())
    assert (shorter <= longer + slack).all() and (longer <= whole + slack).all()
    assert (shorter >= -1e-12).all()


def test_rows_without_a_list_say_nothing() -> None:
    student, _ = logits(6)
    ids, logp = torch.full((N, K), -1), torch.full((N, K), -torch.inf, dtype=torch.float64)
    for name, (terms, _) in PLAIN.items():
        value, slope = Divergence(terms).listed(student, ids, logp)
        assert (value.abs() < 1e-12).all() and (slope.abs() < 1e-12).all(), name


def test_a_rest_that_single_precision_cannot_see_is_still_exact_on_the_students_side() -> None:
    # the student's rest is e^-40, far below the 2^-23 that 1 minus the listed mass could show
    student = torch.tensor([[0.0, -40.0, -41.0]])
    value, slope = Divergence(kernels.forward_kl_terms).listed(
        student, torch.tensor([[0]]), torch.tensor([[0.5]]).log()
    )
    rest = torch.tensor([-40.0, -41.0], dtype=torch.float64).logsumexp(0)
    want = torch.tensor([0.5]).double().log() + 0 - 0.5 * rest
    torch.testing.assert_close(value.double(), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope.sum(-1), torch.zeros(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(slope[0, 0].item(), 0.5, rtol=1e-6, atol=0)


@pytest.mark.parametrize("own", [False, True])
def test_the_likeliest_tokens_are_listed_by_the_side_that_chooses(own: bool) -> None:
    student, teacher = logits(7)
    divergence = Divergence(kernels.reverse_kl_terms, 0.7)
    ids = (student if own else teacher).topk(K).indices
    want = divergence.listed(student, ids, (teacher / 0.7).log_softmax(-1).gather(-1, ids))
    got = divergence.on_top(K, own=own)(student, teacher)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(divergence.on_top(V + 5)(student, teacher), divergence(student, teacher))
    with pytest.raises(BadValue, match="k of at least 1, got 0"):
        divergence.on_top(0)


def test_with_the_rest_as_an_outcome_a_fixed_log_ratio_has_the_gradient_of_reverse_kl() -> None:
    # and without it, it has not: what the student moves off the list is never paid for
    student, teacher = logits(8)
    lists = likeliest(teacher)
    _, slope = Divergence(kernels.reverse_kl_terms).listed(student, *lists)
    z = student.clone().requires_grad_()
    log_q, log_p = bucketed(z, *lists)
    terms = log_q.exp() * (log_q - log_p).detach()
    (fixed,) = torch.autograd.grad(terms.sum(), z, retain_graph=True)
    torch.testing.assert_close(fixed, slope)
    whole, cut = (torch.autograd.grad(t.sum(), z, retain_graph=True)[0] for t in (terms, terms[:, :-1]))
    assert (whole - cut).abs().max() > 1e-2


def test_weights_of_all_tokens_give_the_cross_entropy_of_the_whole_distribution() -> None:
    student, teacher = logits(9)
    p = teacher.softmax(-1)
    value, slope = listed_cross_entropy_pair(student, torch.arange(V).expand(N, V), p.log())
    torch.testing.assert_close(value, -(p * student.log_softmax(-1)).sum(-1))
    torch.testing.assert_close(slope, student.softmax(-1) - p)
    target = torch.arange(N)
    torch.testing.assert_close(
        cross_entropy_pair(student, target),
        (torch.nn.functional.cross_entropy(student, target, reduction="none"), student.softmax(-1) - torch.eye(N, V)),
        check_dtype=False,
    )


def test_drawn_ids_teach_the_whole_distribution_in_the_mean() -> None:
    # every pair of draws, doubles included, with its probability; padding changes nothing
    student, teacher = (z[:1, :4] for z in logits(10))
    p = teacher.softmax(-1)[0]
    mean_value, mean_slope = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    for i, j in itertools.product(range(4), repeat=2):
        ids = torch.tensor([[i, -1, j]])
        logp = torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64).log()
        value, slope = listed_cross_entropy_pair(student, ids, logp)
        mean_value, mean_slope = mean_value + p[i] * p[j] * value, mean_slope + p[i] * p[j] * slope
    entropy = -(p * p.log()).sum()
    torch.testing.assert_close(mean_value - entropy, forward_kl(student, teacher))
    torch.testing.assert_close(mean_slope, Divergence(kernels.forward_kl_terms)(student, teacher)[1])


def test_drawn_weights_through_the_fused_sum_are_finite_differences() -> None:
    student, weight = learner(11), torch.rand(N, dtype=torch.float64)
    ids, logp = torch.randint(0, V, (N, K)), torch.randn(N, K, dtype=torch.float64)

    def total(hidden: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        given = replace(student, hidden=hidden, weight=matrix, bias=bias)
        return fused_sum(given, weight, listed_cross_entropy_pair, ids, logp, rows=3)

    assert torch.autograd.gradcheck(total, leaves(student))


def test_half_precision_lists_serve_half_precision_heads() -> None:
    exact, teacher = learner(12, rows=64, width=32, size=50), head(13, rows=64, width=32, size=50)
    half = TokenHead(*(t.detach().bfloat16().requires_grad_() for t in leaves(exact)))
    ids, logp = likeliest(teacher.logits(), 20)
    pair, one = Divergence(kernels.jsd_terms(0.5)).listed, torch.ones(64)
    wanted = torch.autograd.grad(fused_sum(exact, one, pair, ids, logp), leaves(exact))
    got = torch.autograd.grad(fused_sum(half, one, pair, ids.int(), logp.half()), leaves(half))
    for g, w in zip(got, wanted, strict=True):
        assert g.dtype == torch.bfloat16 and (g.double() - w).norm() < 0.03 * w.norm()


def test_plain_forms_take_buckets_as_logits() -> None:
    student, teacher = logits(14)
    both = bucketed(student, *likeliest(teacher))
    for side in both:
        torch.testing.assert_close(side.exp().sum(-1), torch.ones(N, dtype=torch.float64))
    assert (partial(reverse_kl)(*both) <= reverse_kl(student, teacher)).all()
