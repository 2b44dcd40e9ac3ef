"""Returns of log-ratios against enumeration: with the exact part of every token they make the gradient of KL."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.parts.mixture_sampling import scored
from limbeck.parts.policy import clipped_surrogate
from limbeck.parts.returns import length_normalised, log_ratio_returns, whitened
from limbeck.parts.token import reverse_kl
from limbeck.players import Player, Players
from limbeck.roles import frozen
from tests.parts.test_policy import NOBODY, Told, slope, whole, world


def pair() -> tuple[Players, Batch]:
    players, batch = world(0)
    return Players({**players, "teacher": Player("teacher", frozen(), Told(7).requires_grad_(False))}), batch


def enumerated(players: Players, batch: Batch) -> tuple[Tensor, Tensor]:
    """The chance of every answer, and the gradient of KL(q || p) over answers."""
    logq, logp = whole(players, batch), whole(players.renamed({"student": "teacher"}), batch)
    return logq.exp().detach(), slope((logq.exp() * (logq - logp)).sum(), players)


def gradients(players: Players, batch: Batch, chance_B: Tensor) -> tuple[Tensor, Tensor]:
    """The mean gradients of the exact part and of the part for what follows."""
    weight = chance_B[:, None] * batch["mask"]
    single = reverse_kl.fn(players, batch.with_(), weight)
    long = clipped_surrogate.fn(players, batch.with_(), weight)
    return slope(single, players), slope(long, players)


def test_both_parts_together_have_the_gradient_of_the_divergence_of_whole_answers() -> None:
    players, batch = pair()
    chance, truth = enumerated(players, batch)
    single, long = gradients(players, log_ratio_returns()(players, scored()(players, batch)), chance)
    torch.testing.assert_close(single + long, truth)
    assert torch.cosine_similarity(single.flatten(), truth.flatten(), 0) < 0.99  # one part alone has not


def test_a_mean_in_place_of_the_sum_keeps_the_direction_roughly() -> None:
    players, batch = pair()
    chance, truth = enumerated(players, batch)
    made = length_normalised()(players, log_ratio_returns()(players, scored()(players, batch)))
    single, long = gradients(players, made, chance)
    alone, both = (torch.cosine_similarity(g.flatten(), truth.flatten(), 0) for g in (single, single + long))
    assert alone < both < 1 and both > 0.9


def rows() -> Batch:
    mask = torch.tensor([[False, True, True, True], [False, False, True, False]])
    student = torch.tensor([[9.0, -1.0, -2.0, -3.0], [9.0, 9.0, -1.0, 9.0]])
    teacher = torch.tensor([[0.0, -2.0, -5.0, -1.0], [0.0, 0.0, -4.0, 0.0]])
    return Batch({"mask": mask, "logp_student": student, "logp_teacher": teacher})


def test_returns_by_hand() -> None:
    got = log_ratio_returns(scale=0.5)(NOBODY, rows())["advantage"]
    torch.testing.assert_close(got, torch.tensor([[0.0, -2.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    clipped = log_ratio_returns(scale=0.5, clip=3.0)(NOBODY, rows())["advantage"]
    torch.testing.assert_close(clipped, torch.tensor([[0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    mean = length_normalised()(NOBODY, log_ratio_returns(scale=0.5)(NOBODY, rows()))["advantage"]
    torch.testing.assert_close(mean, torch.tensor([[0.0, -1.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))


def test_whitened_advantages_have_mean_0_and_deviation_1_whatever_stands_elsewhere() -> None:
    mask = torch.rand(20, 7) < 0.6
    given = torch.where(mask, 3 * torch.randn(20, 7) + 5, torch.nan)
    got = whitened()(NOBODY, Batch({"mask": mask, "advantage": given}))["advantage"]
    torch.testing.assert_close(got[mask], (given[mask] - given[mask].mean()) / given[mask].std(correction=0))
    assert not got[~mask].any()


def test_advantages_that_are_all_alike_become_0() -> None:
    mask = torch.ones(3, 2, dtype=torch.bool)
    got = whitened()(NOBODY, Batch({"mask": mask.float() > 1, "advantage": torch.ones(3, 2)}))["advantage"]
    same = whitened()(NOBODY, Batch({"mask": torch.tensor([[False, True]] * 3), "advantage": torch.ones(3, 2)}))
    assert not got.any() and not same["advantage"].any()


@pytest.mark.parametrize("how", [{"scale": 0.0}, {"clip": -1.0}])
def test_scales_that_make_no_sense_are_refused(how: dict[str, float]) -> None:
    with pytest.raises(BadValue, match="a scale and a bound above 0"):
        log_ratio_returns(**how)(NOBODY, rows())
