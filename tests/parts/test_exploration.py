"""Flattened selves: temperatures against a root finder, losses against autograd and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from limbeck.batch import Batch
from limbeck.kernels.head import TokenHead
from limbeck.parts.exploration import (
    entropy_gated,
    flattened_forward_kl,
    flattened_square,
    negative_entropy,
    over_length,
)
from limbeck.players import Player, Players
from limbeck.roles import frozen

B, T, V, D = 2, 5, 9, 4


def aim(z: np.ndarray) -> float:
    h = entropy(softmax(z))
    return float(h + 0.5 / (1 + np.exp(-2 * (h - 1.2))))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 12), size=st.integers(2, 40))
def test_the_temperature_gives_the_entropy_that_is_aimed_at(seed: int, scale: float, size: int) -> None:
    z = scale * np.random.default_rng(seed).normal(size=size)
    tau = float(entropy_gated()(torch.tensor(z)[None])[0])
    low, high = (entropy(softmax(z / bound)) for bound in (1.1, 1.5))
    if entropy(softmax(z)) <= 0.03 or aim(z) <= low:
        assert tau == pytest.approx(1.1, abs=1e-6)
    elif aim(z) >= high:
        assert tau == pytest.approx(1.5, abs=1e-6)
    else:
        assert abs(entropy(softmax(z / tau)) - aim(z)) < 1e-3
        assert tau == pytest.approx(brentq(lambda t: entropy(softmax(z / t)) - aim(z), 1.1, 1.5), abs=1e-5)


def test_the_rarest_tokens_beyond_the_top_do_not_count() -> None:
    z = torch.tensor([[3.0, 2.0, 1.0, 0.5, 0.4, 0.3]], dtype=torch.float64)
    assert entropy_gated(top=2)(z) == entropy_gated()(z[:, :2]) != entropy_gated()(z)


def test_rows_do_not_depend_on_each_other() -> None:
    z = torch.randn(6, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    whole = entropy_gated()(z)
    torch.testing.assert_close(whole, torch.cat([entropy_gated()(z[i : i + 1]) for i in range(6)]))
    assert whole.unique().numel() > 2


def head(seed: int) -> TokenHead:
    g = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((B, T, D), (V, D)))
    return TokenHead(hidden, weight.requires_grad_())


def game(student: TokenHead, teacher: TokenHead) -> Players:
    def speaks(made: TokenHead) -> Any:
        return lambda batch, want: {"head": made}

    return Players({n: Player(n, frozen(), answer=speaks(h)) for n, h in (("student", student), ("teacher", teacher))})


MASK = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 0, 1, 0]]).bool()
TOKENS = torch.arange(B * T).reshape(B, T) % V
WEIGHT = torch.rand(B, T, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def batch() -> Batch:
    return Batch({"tokens": TOKENS, "mask": MASK})


def targets(made: TokenHead) -> Tensor:
    return made.logits()[:, :-1][MASK[:, 1:]]


def square(q: Tensor, z: Tensor, tau: Tensor) -> Tensor:
    mine, flat = (-cross_entropy(x, TOKENS[MASK], reduction="none") for x in (q, z / tau))
    return (mine - flat).square() / 2


def whole(q: Tensor, z: Tensor, tau: Tensor) -> Tensor:
    return kl_div(q.log_softmax(-1), (z / tau).log_softmax(-1), log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize(("loss", "plain"), [(flattened_square, square), (flattened_forward_kl, whole)])
def test_losses_and_gradients_are_those_of_autograd(loss: Any, plain: Any) -> None:
    student, teacher = head(0), head(1)
    got = loss.fn(game(student, teacher), batch(), WEIGHT)
    z = targets(teacher).detach()
    tau = entropy_gated()(z)[:, None]
    want = (WEIGHT[MASK] * plain(targets(student), z, tau)).sum()
    torch.testing.assert_close(got, want)
    ours, truth = (torch.autograd.grad(value, student.weight)[0] for value in (got, want))
    torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("loss", [flattened_square, flattened_forward_kl])
def test_at_temperature_one_a_player_is_drawn_nowhere_by_itself(loss: Any) -> None:
    same = head(0)
    still = entropy_gated(bounds=(1.0, 1.0))
    assert loss.fn(game(same, same.detach()), batch(), WEIGHT, temperature=still).abs() < 1e-12
    hotter = loss.fn(game(same, same.detach()), batch(), WEIGHT)
    assert hotter > 1e-4
    # what is likelier than under the flattened self is made less likely, so that the entropy grows
    (slope,) = torch.autograd.grad(hotter, same.weight)
    before, after = (
        (log_softmax(targets(TokenHead(same.hidden, w)), -1).exp(), w) for w in (same.weight, same.weight - slope)
    )
    if loss is flattened_forward_kl:
        assert entropy(after[0].detach(), axis=-1).mean() > entropy(before[0].detach(), axis=-1).mean()


def test_the_bonus_is_the_entropy() -> None:
    student = head(0)
    got = negative_entropy.fn(game(student, student), batch(), WEIGHT)
    log_q = targets(student).log_softmax(-1)
    want = (WEIGHT[MASK] * (log_q.exp() * log_q).sum(-1)).sum()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(value, student.weight)[0] for value in (got, want)))


@pytest.mark.parametrize("lengths", [[1, 4], [2, 2]])
def test_over_a_constant_length_the_mean_over_tokens_is_that_of_sums_over_rows(lengths: list[int]) -> None:
    mask = torch.tensor([[False] + [i < n for i in range(4)] for n in lengths])
    loss = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    rows = Batch({"mask": mask})
    mean = (over_length(length=8)(None, rows)[:, None] * loss * mask).sum() / rows.counts["tokens"]
    torch.testing.assert_close(mean, (loss * mask).sum(1).mean() / 8)
