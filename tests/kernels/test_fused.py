"""The fused token losses: against finite differences, against the plain form, and in memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from limbeck.errors import Mismatch
from limbeck.kernels.divergence import (
    Pair,
    by_autograd,
    cross_entropy_pair,
    forward_kl_pair,
    jsd_pair,
    reverse_kl_pair,
)
from limbeck.kernels.fused import fused_sum, plain_sum
from limbeck.kernels.head import TokenHead
from limbeck.parts import divergence

PAIRS: dict[str, tuple[Pair, object]] = {
    "forward": (partial(forward_kl_pair, temperature=1.7), partial(divergence.forward_kl, temperature=1.7)),
    "reverse": (partial(reverse_kl_pair, temperature=0.6), partial(divergence.reverse_kl, temperature=0.6)),
    "jsd": (partial(jsd_pair, beta=0.3, temperature=1.3), partial(divergence.jsd, beta=0.3, temperature=1.3)),
    "jsd at 0": (partial(jsd_pair, beta=0.0), partial(divergence.jsd, beta=0.0)),
    "jsd at 1": (partial(jsd_pair, beta=1.0), partial(divergence.jsd, beta=1.0)),
    "autograd": (by_autograd(divergence.reverse_kl), divergence.reverse_kl),
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
    expected = (weight * plain(student.logits(), teacher.logits())).sum()  # type: ignore[operator]
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


def test_gradients_stay_finite_at_extreme_logits() -> None:
    student = TokenHead(torch.tensor([[1e4], [1e4]]).requires_grad_(), torch.tensor([[1.0], [-1.0], [0.0]]))
    teacher = replace(student, hidden=torch.tensor([[-1e4], [1e4]]))
    for name, (pair, _) in PAIRS.items():
        total = fused_sum(student, torch.ones(2), pair, teacher)
        assert total.isfinite(), name
        assert torch.autograd.grad(total, student.hidden)[0].isfinite().all(), name


def test_no_target_gives_zero_and_zero_gradients() -> None:
    # a process may hold a micro-batch without a single target; its gradients must exist all the same
    student = learner(5, rows=0)
    total = fused_sum(student, torch.zeros(0), forward_kl_pair, head(6, rows=0))
    assert total.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(total, leaves(student)))


def test_half_precision_keeps_its_dtypes_and_is_near() -> None:
    exact, teacher, weight = learner(7, rows=64, width=32), head(8, rows=64, width=32), torch.linspace(0.1, 1.0, 64)
    half = TokenHead(*(t.detach().bfloat16().requires_grad_() for t in leaves(exact)))
    wanted = torch.autograd.grad(fused_sum(exact, weight, jsd_pair, teacher), leaves(exact))
    total = fused_sum(half, weight, jsd_pair, TokenHead(*(t.bfloat16() for t in leaves(teacher))))
    assert total.dtype == torch.float32
    for got, want in zip(torch.autograd.grad(total, leaves(half)), wanted, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got.double() - want).norm() < 0.03 * want.norm()


def test_a_frozen_output_matrix_gets_no_gradient() -> None:
    # as under LoRA: only the hidden states ask
    student = head(9)
    student.hidden.requires_grad_()
    fused_sum(student, torch.ones(7), forward_kl_pair, head(10)).backward()
    assert student.hidden.grad is not None and student.weight.grad is None


def test_padding_of_the_vocabulary_is_cut_away() -> None:
    student, teacher = head(11), head(12)
    padded = replace(
        student,
        weight=torch.cat((student.weight, torch.full((3, 4), 50.0, dtype=torch.float64))),
        bias=torch.cat((student.bias, torch.full((3,), 99.0, dtype=torch.float64))),  # type: ignore[arg-type]
    )
    one = torch.ones(7)
    wanted = fused_sum(student, one, forward_kl_pair, teacher)
    torch.testing.assert_close(fused_sum(padded.first(9), one, forward_kl_pair, teacher), wanted)
    with pytest.raises(Mismatch, match="has 9 tokens, fewer than the tokenizer's 10"):
        student.first(10)


MEMORY = """
import resource, torch
from limbeck.kernels.divergence import jsd_pair
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.head import TokenHead
torch.manual_seed(0)
N, D, V = 2048, 64, 16384
student = TokenHead(torch.randn(N, D, requires_grad=True), torch.randn(V, D, requires_grad=True))
teacher = TokenHead(torch.randn(N, D), torch.randn(V, D))
small = TokenHead(student.hidden[:8], student.weight)
fused_sum(small, torch.ones(8), jsd_pair, TokenHead(teacher.hidden[:8], teacher.weight)).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fused_sum(student, torch.ones(N), jsd_pair, teacher).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_far_below_that_of_the_logits() -> None:
    # student's and teacher's logits alone would take 2 x 2048 x 16384 x 4 bytes = 256 MiB, the plain form more
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(run.stdout) * 1024 < 256 * 2**20
