"""Sparse targets: what is kept is what a sort says, and the mean of a random sample is what it is drawn from."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor

from limbeck.errors import BadValue, NotFinite
from limbeck.kernels.head import TokenHead
from limbeck.parts import sparse as module
from limbeck.parts.sparse import capture, drawn, likeliest, nucleus
from limbeck.rng import Rng


def logp_of(n: int, vocabulary: int, seed: int = 0) -> Tensor:
    return torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(-1)


def streams(n: int, seed: int = 0) -> Any:
    return lambda count: Rng(("test", seed), torch.arange(n)).uniform("u", count)


def test_the_most_probable_are_kept_and_the_rest_is_the_tail() -> None:
    logp = logp_of(6, 50)
    found = likeliest(k=7)(logp, None)
    for ids, values, tail, row in zip(*found, logp.double().numpy(), strict=True):
        order = np.argsort(-row)
        assert ids.tolist() == order[:7].tolist()
        np.testing.assert_allclose(values, row[order[:7]])
        np.testing.assert_allclose(tail, logsumexp(row[order[7:]]), rtol=1e-5)


def test_a_tail_of_a_billionth_is_not_lost_to_rounding() -> None:
    logp = torch.tensor([[0.0, -25.0, -26.0]]).log_softmax(-1)
    assert float(likeliest(k=1)(logp, None).tail) == pytest.approx(float(logsumexp([-25.0, -26.0])), rel=1e-6)


def test_a_vocabulary_smaller_than_k_and_tokens_that_cannot_be() -> None:
    logp = torch.tensor([[0.0, -torch.inf, 1.0]]).log_softmax(-1)
    found = likeliest(k=64)(logp, None)
    assert found.logp.isfinite().sum() == 2 and found.tail.item() == -torch.inf


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1.0])
def test_the_nucleus_is_the_smallest_set_of_that_mass(p: float) -> None:
    logp = logp_of(20, 30)
    found = nucleus(p=p, k=30)(logp.double(), None)
    for values, tail, row in zip(found.logp, found.tail, logp.double().exp(), strict=True):
        kept, mass = int(values.isfinite().sum()), row.sort(descending=True).values.cumsum(0)
        assert kept == min(30, 1 + int((mass < p).sum()))
        assert float(values.exp().sum() + tail.exp()) == pytest.approx(1)


def test_the_nucleus_keeps_no_more_than_k() -> None:
    found = nucleus(p=1.0, k=4)(logp_of(3, 30), None)
    assert found.ids.shape == (3, 4) and found.logp.isfinite().all()


# -- random samples ---------------------------------------------------------------------------------------------------


def dense(found: Any, vocabulary: int) -> Tensor:
    """The target as a vector over the vocabulary."""
    return torch.zeros(len(found.ids), vocabulary, dtype=torch.float64).scatter_add_(
        -1, found.ids, found.logp.double().exp()
    )


@pytest.mark.parametrize(("p", "alpha"), [((1, 3, 4), 1.0), ((1, 9, 16), 0.5), ((0, 4, 4), 1.0)])
def test_its_mean_over_all_draws_is_the_distribution(p: tuple[int, ...], alpha: float) -> None:
    """Every pair of draws of a proposal in eighths, each once: q is (1, 3, 4) / 8 for all but the last."""
    truth = torch.tensor(p, dtype=torch.float64) / sum(p)
    pairs = torch.tensor([[*pair, 0.5, 0.5] for pair in itertools.product((torch.arange(8) + 0.5) / 8, repeat=2)])
    logp = truth.log().expand(len(pairs), -1)
    found = drawn(draws=2, alpha=alpha)(logp, lambda n: pairs[:, :n])
    torch.testing.assert_close(dense(found, 3).mean(0), truth, atol=1e-9, rtol=0)
    if alpha == 1:
        assert dense(found, 3).sum(1).allclose(torch.ones(64, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_its_mean_over_many_tokens_is_the_distribution(alpha: float) -> None:
    """z-scores of 40 means over 20,000 tokens: the largest of so many normal numbers stays below 4.5.

    A weight of one draw has the second moment p^2 / q.
    """
    logp, n, draws = logp_of(1, 40).double(), 20_000, 5
    found = dense(drawn(draws=draws, alpha=alpha)(logp.expand(n, -1), streams(n)), 40)
    p, q = logp[0].exp(), (alpha * logp[0]).softmax(-1)
    z = (found.mean(0) - p) / ((p.square() / q - p.square()) / (n * draws)).sqrt()
    assert z.abs().max() < 4.5 and 0.5 < z.std() < 1.5


def test_gradients_are_unbiased_where_those_of_the_most_probable_are_not() -> None:
    """The gradient of the cross-entropy by the student's logits is q - t: its mean is q - p for random targets only."""
    logp, n = logp_of(1, 40).double(), 5000
    q = logp_of(1, 40, seed=1).double().exp()
    random = dense(drawn(draws=20)(logp.expand(n, -1), streams(n)), 40)
    error = (q - random).mean(0) - (q - logp.exp())[0]
    assert error.norm() < 4 * (random.var(0).sum() / n).sqrt()
    kept = dense(likeliest(k=5)(logp, None), 40)
    assert ((q - kept) - (q - logp.exp())).norm() > 0.05


def test_the_number_of_different_ids_is_as_expected() -> None:
    """sum_v 1 - (1 - p_v)^S"""
    logp, n = (-1.3 * torch.arange(1, 5001).double().log()).log_softmax(-1), 2000
    found = drawn(draws=50)(logp.expand(n, -1), streams(n))
    different = found.logp.isfinite().sum(1).double()
    expected = float((1 - (1 - logp.exp()) ** 50).sum())
    assert abs(float(different.mean()) - expected) < 4 * float(different.std()) / n**0.5


def test_tokens_rarer_than_one_number_can_tell_are_drawn() -> None:
    """With 23 bits, tokens of 2^-30 would be drawn too often or never; together they hold half of the mass."""
    truth = torch.full((1 + 2**15,), 2.0**-16, dtype=torch.float64)
    truth[0], truth[1:17] = 0.5, 2.0**-30
    found = drawn(draws=100)((truth / truth.sum()).log().expand(200, -1), streams(200))
    assert 0.45 < float(found.logp.exp().masked_fill(found.ids == 0, 0).sum(1).mean()) < 0.55


def test_the_numbers_of_a_token_decide_alone() -> None:
    logp = logp_of(8, 30)
    whole = drawn(draws=9)(logp, streams(8))
    part = drawn(draws=9)(logp[3:5], lambda n: streams(8)(n)[3:5])
    assert dense(whole, 30)[3:5].equal(dense(part, 30))


# -- from heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [likeliest(k=5), nucleus(p=0.7), drawn(draws=9)], ids=lambda p: p.spec.name)
def test_a_head_is_captured_in_chunks_as_at_once(targets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head = TokenHead(torch.randn(37, 6), torch.randn(60, 6), softcap=20.0)
    whole = capture(head, targets, streams(37))
    monkeypatch.setattr(module, "LOGITS", 8 * 60)
    chunked = capture(head, targets, streams(37))
    logp = head.logits().log_softmax(-1)
    for found in (whole, chunked):
        assert dense(found, 60).allclose(dense(targets(logp, streams(37)), 60))
        kept = found.logp.isfinite()
        assert found.true[kept].allclose(logp.gather(1, found.ids)[kept])
        torch.testing.assert_close(found.negentropy, -torch.distributions.Categorical(logits=logp).entropy())


def test_never_are_there_more_logits_than_those_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = TokenHead.logits
    monkeypatch.setattr(TokenHead, "logits", lambda self, rows=None: seen.append(plain(self, rows)) or seen[-1])
    monkeypatch.setattr(module, "LOGITS", 128 * 500)
    capture(TokenHead(torch.randn(1000, 4), torch.randn(500, 4)), likeliest(k=2), streams(1000))
    assert max(len(z) for z in seen) == 128 and sum(len(z) for z in seen) == 1000


def test_logits_that_are_not_finite_are_refused() -> None:
    head = TokenHead(torch.tensor([[torch.nan, 1.0]]), torch.ones(3, 2))
    with pytest.raises(NotFinite, match="the teacher's logits hold NaN"):
        capture(head, likeliest(), streams(1))


@pytest.mark.parametrize(
    "targets", [likeliest(k=0), nucleus(p=0.0), nucleus(p=1.5), nucleus(k=0), drawn(draws=0), drawn(alpha=0.0)]
)
def test_settings_out_of_range_are_refused(targets: Any) -> None:
    with pytest.raises(BadValue, match=f"{targets.spec.name} needs"):
        targets(logp_of(1, 5), streams(1))
