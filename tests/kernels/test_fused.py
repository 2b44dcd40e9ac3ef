"""The fused token losses: against finite differences, against the plain form, and in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import Mismatch
from limbeck.kernels import divergence as kernels
from limbeck.kernels.divergence import Divergence, Pair, by_autograd, cross_entropy_pair
from limbeck.kernels.fused import BLOCK, fused_sum, plain_sum
from limbeck.kernels.head import TokenHead
from limbeck.parts import divergence

FORWARD, REVERSE, JSD = (Divergence(kernels.jsd_terms(beta)) for beta in (0.0, 1.0, 0.5))


def jeffreys(u: Tensor) -> Tensor:
    return (u - 1) * u.log()


PLAIN: dict[str, tuple[kernels.Terms, Callable[..., Tensor]]] = {
    "forward KL": (kernels.forward_kl_terms, divergence.forward_kl),
    "reverse KL": (kernels.reverse_kl_terms, divergence.reverse_kl),
    "jsd": (kernels.jsd_terms(0.3), partial(divergence.jsd, beta=0.3)),
    "jsd at 0": (kernels.jsd_terms(0.0), divergence.forward_kl),
    "jsd at 1": (kernels.jsd_terms(1.0), divergence.reverse_kl),
    "skew forward": (kernels.skew_forward_kl_terms(0.2), partial(divergence.skew_forward_kl, alpha=0.2)),
    "skew reverse": (kernels.skew_reverse_kl_terms(0.3), partial(divergence.skew_reverse_kl, alpha=0.3)),
    "total variation": (kernels.total_variation_terms, divergence.total_variation),
    "alpha 0.2": (kernels.alpha_terms(0.2), partial(divergence.alpha_divergence, alpha=0.2)),
    "alpha 0.8": (kernels.alpha_terms(0.8), partial(divergence.alpha_divergence, alpha=0.8)),
    "alpha 3": (kernels.alpha_terms(3.0), partial(divergence.alpha_divergence, alpha=3.0)),
    "alpha -1.5": (kernels.alpha_terms(-1.5), partial(divergence.alpha_divergence, alpha=-1.5)),
    "hellinger": (kernels.scaled(0.25, kernels.alpha_terms(0.5)), divergence.squared_hellinger),
    "pearson": (kernels.scaled(2, kernels.alpha_terms(2)), divergence.pearson),
    "neyman": (kernels.scaled(2, kernels.alpha_terms(-1)), divergence.neyman),
    "generator": (kernels.f_terms(jeffreys), partial(divergence.f_divergence, generator=jeffreys)),
}
PAIRS: dict[str, tuple[Pair, Callable[..., Tensor]]] = {
    name: (Divergence(terms, 1.7), partial(plain, temperature=1.7)) for name, (terms, plain) in PLAIN.items()
}
PAIRS |= {
    "autograd": (by_autograd(divergence.reverse_kl), divergence.reverse_kl),
    "logit mse": (by_autograd(divergence.logit_mse), divergence.logit_mse),
    "logit cosine": (by_autograd(divergence.logit_cosine), divergence.logit_cosine),
}


def head(
    seed: int, rows: int = 7, width: int = 4, size: int = 9, softcap: float | None = None, bias: bool = True
) -> TokenHead:
    g = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, width, generator=g, dtype=torch.float64) for n in (rows, size))
    offset = torch.randn(size, generator=g, dtype=torch.float64) if bias else None
    return TokenHead(hidden, weight, offset, softcap=softcap, scale=1.5 if softcap else 1.0)


def leaves(of: TokenHead) -> list[torch.Tensor]:
    return [t for t in (of.hidden, of.weight, of.bias) if t is not None]


def learner(*args: int, **how: object) -> TokenHead:
    made = head(*args, **how)  # type: ignore[arg-type]
    for leaf in leaves(made):
        leaf.requires_grad_()
    return made


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_finite_differences(name: str, softcap: float | None) -> None:
    # by hidden states, matrix, bias and token weights, with chunks that do not divide the rows
    student, teacher = learner(0, softcap=softcap), head(1, width=3)
    weight = torch.rand(7, dtype=torch.float64)

    def total(hidden: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        given = replace(student, hidden=hidden, weight=matrix, bias=bias)
        return fused_sum(given, w, PAIRS[name][0], teacher, rows=3)

    assert torch.autograd.gradcheck(total, (*leaves(student), weight.requires_grad_()))


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_the_plain_form(name: str) -> None:
    pair, plain = PAIRS[name]
    student, teacher, weight = learner(2, softcap=5.0), head(3), torch.rand(7, dtype=torch.float64)
    expected = (weight * plain(student.logits(), teacher.logits())).sum()
    wanted = torch.autograd.grad(expected, leaves(student))
    for rows in (1, 2, 7, 100):
        total = fused_sum(student, weight, pair, teacher, rows=rows)
        torch.testing.assert_close(total, expected.detach())
        torch.testing.assert_close(torch.autograd.grad(3 * total, leaves(student)), tuple(3 * g for g in wanted))
    torch.testing.assert_close(plain_sum(student, weight, pair, teacher), expected.detach())


def test_cross_entropy_is_that_of_torch() -> None:
    student, target, weight = learner(4, bias=False), torch.tensor([0, 8, 3, 3, 1, 0, 5]), torch.rand(7).double()
    expected = (weight * F.cross_entropy(student.logits(), target, reduction="none")).sum()
    wanted = torch.autograd.grad(expected, leaves(student))
    total = fused_sum(student, weight, cross_entropy_pair, target, rows=3)
    torch.testing.assert_close(total, expected.detach())
    torch.testing.assert_close(torch.autograd.grad(total, leaves(student)), wanted)


def test_extreme_logits_give_finite_gradients_or_an_infinite_value() -> None:
    # what divides by a probability that underflows is infinite, and says so
    student = TokenHead(torch.tensor([[1e4], [1e4]]).requires_grad_(), torch.tensor([[1.0], [-1.0], [0.0]]))
    teacher = replace(student, hidden=torch.tensor([[-1e4], [1e4]]))
    for name, (pair, _) in PAIRS.items():
        total = fused_sum(student, torch.ones(2), pair, teacher)
        if name in ("alpha 3", "alpha -1.5", "pearson", "neyman"):
            assert total.item() == torch.inf, name
        else:
            assert total.isfinite(), name
            assert torch.autograd.grad(total, student.hidden)[0].isfinite().all(), name


@pytest.mark.parametrize("name", PLAIN)
def test_tokens_of_no_probability_count_as_in_the_plain_form(name: str) -> None:
    # the first three columns: nobody says it, only the teacher cannot, only the student cannot
    terms, plain = PLAIN[name]
    student, teacher = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for never in ((0,), (0, 1), (0, 2)):
        a, b = student.clone(), teacher.clone()
        a[:, [v for v in never if v != 1]] = -torch.inf
        b[:, [v for v in never if v != 2]] = -torch.inf
        wanted = plain(a, b)
        if "generator" in name and len(never) == 2:  # its bound on ratios stands for infinity
            continue
        value, slope = Divergence(terms)(a, b)
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)
        assert (slope[wanted.isfinite()].isfinite()).all()
        assert (slope[wanted.isfinite()][:, 0] == 0).all()


@pytest.mark.parametrize("name", PLAIN)
def test_logits_that_are_no_numbers_are_not_hidden(name: str) -> None:
    student, teacher = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(4))
    for broken in (student, teacher):
        kept = broken[1, 3].item()
        broken[1, 3] = torch.nan
        value, _ = Divergence(PLAIN[name][0])(student, teacher)
        assert value.isnan().tolist() == [False, True, False]
        broken[1, 3] = kept


def test_tokens_of_weight_zero_are_left_out_even_where_the_loss_is_infinite() -> None:
    student, teacher = learner(13), head(14)
    teacher.bias[0] = -torch.inf  # type: ignore[index]  # reverse KL is infinite everywhere
    weight = torch.zeros(7, dtype=torch.float64)
    total = fused_sum(student, weight, REVERSE, teacher, rows=3)
    assert total.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(total, leaves(student)))
    some = torch.tensor([0, 1, 0, 2, 0, 0, 3]).double()
    kept, finite = some > 0, head(15)
    wanted = fused_sum(student.at(kept), some[kept], JSD, finite.at(kept))
    total = fused_sum(student, some, JSD, finite, rows=2)
    torch.testing.assert_close(total, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(t, leaves(student)) for t in (total, wanted)))


def test_no_target_gives_zero_and_zero_gradients() -> None:
    # a process may hold a micro-batch without a single target; its gradients must exist all the same
    student = learner(5, rows=0)
    total = fused_sum(student, torch.zeros(0), FORWARD, head(6, rows=0))
    assert total.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(total, leaves(student)))


def test_half_precision_keeps_its_dtypes_and_is_near() -> None:
    exact, teacher, weight = learner(7, rows=64, width=32), head(8, rows=64, width=32), torch.linspace(0.1, 1.0, 64)
    half = TokenHead(*(t.detach().bfloat16().requires_grad_() for t in leaves(exact)))
    wanted = torch.autograd.grad(fused_sum(exact, weight, JSD, teacher), leaves(exact))
    total = fused_sum(half, weight, JSD, TokenHead(*(t.bfloat16() for t in leaves(teacher))))
    assert total.dtype == torch.float32
    for got, want in zip(torch.autograd.grad(total, leaves(half)), wanted, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got.double() - want).norm() < 0.03 * want.norm()


def test_sums_of_half_precision_are_formed_in_single_over_blocks_of_a_large_vocabulary() -> None:
    # bfloat16 holds 8 bits: added up there, 64 chunks would lose most of what each gives
    exact, teacher = learner(16, rows=256, width=8, size=BLOCK + 100), head(17, rows=256, width=8, size=BLOCK + 100)
    half = TokenHead(*(t.detach().bfloat16().requires_grad_() for t in leaves(exact)))
    small = TokenHead(*(t.bfloat16() for t in leaves(teacher)))
    weight = torch.ones(256)
    wanted = torch.autograd.grad(fused_sum(exact, weight, FORWARD, teacher), leaves(exact))
    got = torch.autograd.grad(fused_sum(half, weight, FORWARD, small, rows=4), leaves(half))
    for g, w in zip(got, wanted, strict=True):
        assert (g.double() - w).norm() < 0.02 * w.norm()


def test_a_frozen_output_matrix_gets_no_gradient() -> None:
    # as under LoRA: only the hidden states ask
    student = head(9)
    student.hidden.requires_grad_()
    fused_sum(student, torch.ones(7), FORWARD, head(10)).backward()
    assert student.hidden.grad is not None and student.weight.grad is None


def test_padding_of_the_vocabulary_is_cut_away() -> None:
    student, teacher = head(11), head(12)
    padded = replace(
        student,
        weight=torch.cat((student.weight, torch.full((3, 4), 50.0, dtype=torch.float64))),
        bias=torch.cat((student.bias, torch.full((3,), 99.0, dtype=torch.float64))),  # type: ignore[arg-type]
    )
    one = torch.ones(7)
    wanted = fused_sum(student, one, FORWARD, teacher)
    torch.testing.assert_close(fused_sum(padded.first(9), one, FORWARD, teacher), wanted)
    with pytest.raises(Mismatch, match="has 9 tokens, fewer than the tokenizer's 10"):
        student.first(10)


MEMORY = """
import resource, torch
from limbeck.kernels.divergence import Divergence, jsd_terms
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.head import TokenHead
torch.manual_seed(0)
jsd = Divergence(jsd_terms(0.5))
N, D, V = 2048, 64, 16384
student = TokenHead(torch.randn(N, D, requires_grad=True), torch.randn(V, D, requires_grad=True))
teacher = TokenHead(torch.randn(N, D), torch.randn(V, D))
small = TokenHead(student.hidden[:8], student.weight)
fused_sum(small, torch.ones(8), jsd, TokenHead(teacher.hidden[:8], teacher.weight)).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fused_sum(student, torch.ones(N), jsd, teacher).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_far_below_that_of_the_logits() -> None:
    # student's and teacher's logits alone would take 2 x 2048 x 16384 x 4 bytes = 256 MiB, the plain form more;
    # two buffers of 512 tokens take 64 MiB, and the gradient by the matrix 4
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(run.stdout) * 1024 < 96 * 2**20
