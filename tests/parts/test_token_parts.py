"""Token losses on heads, against the plain divergences and against libraries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from limbeck.batch import Batch
from limbeck.errors import Mismatch
from limbeck.kernels.head import TokenHead
from limbeck.parts import divergence, token
from limbeck.players import Player, Players
from limbeck.roles import frozen

B, T, D = 3, 6, 4
PAIRS = [
    (token.forward_kl, divergence.forward_kl, {"temperature": 2.0}),
    (token.reverse_kl, divergence.reverse_kl, {"temperature": 0.5}),
    (token.jsd, divergence.jsd, {"beta": 0.2, "temperature": 1.5}),
    (token.jsd, divergence.jsd, {"beta": 0.0}),
    (token.jsd, divergence.jsd, {"beta": 1.0}),
    (token.skew_forward_kl, divergence.skew_forward_kl, {"alpha": 0.1, "temperature": 1.5}),
    (token.skew_reverse_kl, divergence.skew_reverse_kl, {"alpha": 0.3}),
    (token.total_variation, divergence.total_variation, {"temperature": 0.8}),
    (token.alpha_divergence, divergence.alpha_divergence, {"alpha": 0.3, "temperature": 1.2}),
    (token.squared_hellinger, divergence.squared_hellinger, {"temperature": 1.5}),
    (token.pearson, divergence.pearson, {"temperature": 2.0}),
    (token.neyman, divergence.neyman, {}),
    (token.f_divergence, divergence.f_divergence, {"generator": token.jeffreys(), "temperature": 1.5}),
    (token.logit_mse, divergence.logit_mse, {}),
    (token.logit_cosine, divergence.logit_cosine, {}),
]


def head(seed: int, size: int, *, softcap: float | None = None, bias: bool = False) -> TokenHead:
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((B, T, D), (size, D), (size,))]
    return TokenHead(made[0], made[1].requires_grad_(), made[2] if bias else None, softcap)


def speaker(name: str, made: TokenHead, family: str = "one") -> Player:
    player = Player(name, frozen(), answer=lambda batch, want: {"head": made})
    if family:
        player.family = family  # type: ignore[attr-defined]
    return player


def players(student: TokenHead, teacher: TokenHead, families: tuple[str, str] = ("one", "one")) -> Players:
    return Players({"student": speaker("s", student, families[0]), "teacher": speaker("t", teacher, families[1])})


@pytest.fixture
def batch() -> Batch:
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]).bool()
    tokens = torch.arange(B * T).reshape(B, T) % 5
    return Batch({"tokens": tokens, "mask": mask})


@pytest.fixture
def weight() -> Tensor:
    return torch.rand(B, T, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def by_hand(student: Tensor, teacher: Tensor, batch: Batch, weight: Tensor, plain: Callable[..., Tensor]) -> Tensor:
    """Go through the targets one by one: the logits at t - 1 are those of token t."""
    total = torch.zeros((), dtype=torch.float64)
    for b, t in batch["mask"].nonzero().tolist():
        total = total + weight[b, t] * plain(student[b, t - 1], teacher[b, t - 1])
    return total


@pytest.mark.parametrize(("fused", "plain", "how"), PAIRS)
@pytest.mark.parametrize(("mine", "theirs"), [(7, 7), (7, 11), (11, 7)])
def test_values_and_gradients_are_those_of_the_plain_divergence_over_shared_tokens(
    batch: Batch,
    weight: Tensor,
    fused: object,
    plain: Callable[..., Tensor],
    how: dict[str, float],
    mine: int,
    theirs: int,
) -> None:
    # Heads padded beyond the tokens that both have are cut: what stands there has no influence.
    student, teacher = head(0, mine, bias=True), head(1, theirs, softcap=2.0)
    got = fused.fn(players(student, teacher), batch, weight, **how)
    cut = [h.logits()[..., : min(mine, theirs)] for h in (student, teacher)]
    want = by_hand(cut[0], cut[1].detach(), batch, weight, lambda s, t: plain(s, t, **how))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    ours, truth = (torch.autograd.grad(value, student.weight)[0] for value in (got, want))
    torch.testing.assert_close(ours, truth, rtol=1e-8, atol=1e-10)
    assert not ours[min(mine, theirs) :].any() and ours.any()


def test_cross_entropy_is_that_of_torch(batch: Batch, weight: Tensor) -> None:
    student = head(0, 5)
    each = F.cross_entropy(student.logits()[:, :-1].transpose(1, 2), batch["tokens"][:, 1:], reduction="none")
    want = (each * weight[:, 1:] * batch["mask"][:, 1:]).sum()
    torch.testing.assert_close(token.cross_entropy.fn(players(student, student), batch, weight), want)


def test_the_weight_is_linear_and_nothing_outside_the_mask_counts(batch: Batch, weight: Tensor) -> None:
    game = players(head(0, 7), head(1, 7))
    one = token.reverse_kl.fn(game, batch, weight)
    torch.testing.assert_close(token.reverse_kl.fn(game, batch, 3 * weight), 3 * one)
    noisy = weight.where(batch["mask"], torch.full_like(weight, 1e6))
    torch.testing.assert_close(token.reverse_kl.fn(game, batch, noisy), one)
    # The mask itself is a weight: every target counts once.
    ones = token.reverse_kl.fn(game, batch, torch.ones_like(weight))
    torch.testing.assert_close(token.reverse_kl.fn(game, batch, batch["mask"]), ones)


def test_a_player_is_nowhere_from_itself(batch: Batch, weight: Tensor) -> None:
    same = head(0, 7)
    for fused, _, how in PAIRS:
        assert fused.fn(players(same, same.detach()), batch, weight, **how).abs() < 1e-12


@pytest.mark.parametrize(
    ("sizes", "families", "says"),
    [
        ((7, 7), ("one", "two"), "have different tokenizers"),
        ((7, 11), ("one", ""), "differ in vocabulary, and one has no tokenizer to compare"),
        ((7, 11), ("", ""), r"s \(7 tokens\) and t \(11 tokens\) differ in vocabulary"),
    ],
)
def test_heads_that_cannot_be_compared_are_refused(
    batch: Batch, sizes: tuple[int, int], families: tuple[str, str], says: str
) -> None:
    game = players(head(0, sizes[0]), head(1, sizes[1]), families)
    with pytest.raises(Mismatch, match=says):
        token.shared_heads(game.student, game.teacher, batch)


def test_heads_of_one_size_need_no_tokenizer_to_vouch_for_them(batch: Batch) -> None:
    game = players(head(0, 7), head(1, 7), ("", "one"))
    student, teacher = token.shared_heads(game.student, game.teacher, batch)
    assert student.hidden.shape == teacher.hidden.shape == (int(batch["mask"].sum()), D)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_sequence_mean_turns_the_mean_over_tokens_into_the_mean_of_means(lengths: list[int], seed: int) -> None:
    mask = torch.tensor([[False] + [i < n for i in range(7)] for n in lengths])
    loss = torch.rand(len(lengths), 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = Batch({"mask": mask})
    weight = token.sequence_mean.fn(None, rows)
    over_tokens = (loss * weight[:, None] * mask).sum() / mask.sum()
    by_rows = torch.stack([row[keep].mean() for row, keep in zip(loss, mask, strict=True)]).mean()
    torch.testing.assert_close(over_tokens, by_rows, rtol=1e-6, atol=1e-7)


def test_a_part_of_a_batch_is_weighed_by_the_counts_of_the_whole() -> None:
    mask = torch.tensor([[False, True, True, True], [False, True, False, False], [False] * 4])
    whole = Batch({"mask": mask})
    weights = token.sequence_mean.fn(None, whole)
    pieces = [token.sequence_mean.fn(None, whole.rows(slice(i, i + 1))) for i in range(3)]
    assert torch.equal(torch.cat(pieces), weights)
    # A row without targets has a finite weight, which meets no token.
    assert weights.isfinite().all() and weights[:2].tolist() == pytest.approx([4 / 9, 4 / 3])
