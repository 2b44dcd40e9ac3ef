"""Alignment and viability: closed forms, finite differences, and another library's AUROC."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from limbeck.data import Table
from limbeck.errors import BadData
from limbeck.kernels.divergence import Divergence, forward_kl_terms, reverse_kl_terms
from limbeck.probes.alignment_score import (
    alignment_bound,
    alignment_gap,
    alignment_score,
    ideal_pull,
    pooled_cosine,
    resampled,
    to_teacher_forward,
    to_teacher_reverse,
)
from limbeck.probes.branch_viability import (
    auroc,
    local_auroc,
    position_auroc,
    position_lead,
    position_lead_bound,
    position_shortfall,
)

N, K = 40, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(pull: Tensor, reward: Tensor | None = None, **more: Tensor) -> dict[str, Table]:
    """Branches whose teacher is the student moved along Q by `pull` (N,); Q is known without noise."""
    own, value = drawn(N, K).log_softmax(-1), drawn(N, K, seed=1).sigmoid()
    columns = {
        "own": own, "theirs": (own + pull[:, None] * value).log_softmax(-1),
        "value": value[..., None].expand(-1, -1, 2), "chance": torch.ones(N, K),
        "reward": torch.arange(N) % 2 if reward is None else reward, "row": torch.arange(N) // 4,
    }  # fmt: skip
    return {"branches": Table({**columns, **more})}


def test_the_ideal_pull_is_the_derivative_of_the_mean_value() -> None:
    z, value = drawn(3, K), drawn(3, K, seed=1)
    z.requires_grad_()
    (slope,) = torch.autograd.grad((z.softmax(-1) * value).sum(), z)
    torch.testing.assert_close(ideal_pull(z.log_softmax(-1), value), slope)


@pytest.mark.parametrize(
    ("direction", "terms"), [(to_teacher_forward(), forward_kl_terms), (to_teacher_reverse(), reverse_kl_terms)]
)
def test_pulls_are_the_derivatives_that_losses_have(direction: Any, terms: Any) -> None:
    own, theirs = drawn(4, K).log_softmax(-1), drawn(4, K, seed=1).log_softmax(-1)
    slope = Divergence(terms)(own.clone(), theirs.clone())[1]
    torch.testing.assert_close(direction(own, theirs), -slope)


def test_a_teacher_that_is_the_student_tilted_by_value_is_aligned_and_its_opposite_is_not() -> None:
    reverse = to_teacher_reverse()
    assert alignment_score(direction=reverse)({}, table(torch.ones(N))) == pytest.approx(1.0, abs=1e-6)
    assert alignment_score(direction=reverse)({}, table(-torch.ones(N))) == pytest.approx(-1.0, abs=1e-6)
    # for a small tilt forward KL pulls alike
    near = table(torch.full((N,), 1e-3))
    assert alignment_score(direction=to_teacher_forward())({}, near) == pytest.approx(1.0, abs=1e-3)


def test_the_gap_is_wrong_less_right() -> None:
    reward = torch.arange(N).remainder(2).float()
    pull = 1 - 2 * reward.double()
    found = table(pull, reward)
    assert alignment_gap(direction=to_teacher_reverse())({}, found) == pytest.approx(2.0, abs=1e-6)
    assert alignment_score(direction=to_teacher_reverse(), high=0.4)({}, found) == pytest.approx(1.0, abs=1e-6)
    assert alignment_score(direction=to_teacher_reverse(), low=0.6)({}, found) == pytest.approx(-1.0, abs=1e-6)


def test_padding_is_no_candidate_and_what_is_left_is_renormalised() -> None:
    plain = table(torch.ones(N))
    columns: dict[str, Any] = dict(plain["branches"].take(torch.arange(N)))
    wide = dict(columns)
    for name, shift, fill in (("own", 1.0, 0.3), ("theirs", 1.0, -7.0), ("chance", 0.0, 0.0)):
        wide[name] = torch.cat((columns[name] - shift, torch.full((N, 2), fill)), 1)
    wide["value"] = torch.cat((columns["value"], torch.ones(N, 2, 2)), 1)
    assert alignment_score()({}, {"branches": Table(wide)}) == pytest.approx(alignment_score()({}, plain), abs=1e-9)


def test_noise_in_the_values_does_not_shrink_the_cosine() -> None:
    truth, given_ = drawn(4000, K), drawn(4000, K, seed=1) + drawn(4000, K)
    first, second = (truth + 2 * drawn(4000, K, seed=s) for s in (2, 3))
    flat = torch.nn.functional.cosine_similarity
    expected = float(flat(truth.flatten(), given_.flatten(), 0))
    assert float(pooled_cosine(truth, truth, given_)) == pytest.approx(expected)
    assert float(pooled_cosine(first, second, given_)) == pytest.approx(expected, abs=0.05)
    assert float(flat((first + second).flatten(), given_.flatten(), 0)) < expected - 0.15
    assert float(pooled_cosine(truth, -truth, given_)) == 0.0


def test_intervals_come_from_whole_clusters_drawn_anew() -> None:
    rows = torch.tensor([3, 3, 3, 8, 8, 1])
    sizes = {1: 1, 3: 3, 8: 2}
    seen = resampled(rows, lambda at: float(len(at)), draws=500)
    assert set(seen.tolist()) <= {float(a + b + c) for a in (1, 2, 3) for b in (1, 2, 3) for c in (1, 2, 3)}
    assert float(seen.mean()) == pytest.approx(sum(sizes.values()), abs=0.2) and len(seen.unique()) > 4
    found = table(drawn(N, seed=5) + 0.5)
    score, low, high = alignment_score()({}, found), *(alignment_bound(level=q)({}, found) for q in (0.05, 0.95))
    assert low < score < high
    even = table(torch.ones(N), row=torch.zeros(N, dtype=torch.long))
    assert alignment_bound()({}, even) == pytest.approx(alignment_score()({}, even), abs=1e-9)


WEIGHTS = st.lists(st.tuples(st.integers(0, 4), st.floats(0.1, 3), st.floats(0.1, 3)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS)
def test_auroc_is_that_of_another_library(found: list[tuple[int, float, float]]) -> None:
    score, up, down = (torch.tensor(c, dtype=torch.float64) for c in zip(*found, strict=True))
    n = len(score)
    labels, weights = torch.cat((torch.ones(n), torch.zeros(n))), torch.cat((up, down))
    expected = roc_auc_score(labels, torch.cat((score, score)), sample_weight=weights)
    assert float(auroc(score, up, down)) == pytest.approx(expected)


def viable(late: Tensor, scores: Tensor, position: Tensor) -> dict[str, Table]:
    """Nodes at which the third candidate was said, which is no alternative and worth the opposite."""
    value = late[:, None, None].expand(-1, K, 2).clone()
    value[:, 2] = 1 - value[:, 2]
    tokens = torch.tensor([[9, 2]]).expand(N, -1)
    more = {"ids": torch.arange(K).expand(N, -1), "tokens": tokens, "mask": tokens == 2}
    return table(torch.ones(N), value=value, scores=scores, position=position, **more)


def test_the_place_leads_where_it_decides_and_not_where_another_score_does() -> None:
    position = torch.linspace(0.01, 0.99, N, dtype=torch.float64)
    late, blind = (position > 0.5).double(), torch.ones(N, 4)
    found = viable(late, blind, position)
    assert position_auroc()({}, found) == pytest.approx(1.0) and local_auroc()({}, found) == pytest.approx(0.5)
    assert position_lead()({}, found) == pytest.approx(0.5) and position_lead_bound()({}, found) == pytest.approx(0.5)
    assert position_shortfall(least=0.1)({}, found) == 0.0
    assert position_shortfall(least=0.6)({}, found) == pytest.approx(0.1)
    # a score that falls where branches are viable tells as much as one that rises
    knowing = torch.stack((-late, *[torch.ones(N)] * 3), 1)
    blind_place = viable(late, knowing, torch.full((N,), 0.5))
    assert local_auroc()({}, blind_place) == pytest.approx(1.0)
    assert position_lead()({}, blind_place) == pytest.approx(-0.5)


@pytest.mark.parametrize("probe", [alignment_score(), position_auroc()])
def test_figures_need_branches(probe: Any) -> None:
    with pytest.raises(BadData, match="this run has none"):
        probe({}, {})
