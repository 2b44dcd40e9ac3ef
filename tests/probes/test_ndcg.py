"""Retrieval, against scikit-learn and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.errors import Mismatch
from limbeck.part import part
from limbeck.players import Player, Players
from limbeck.probes.retrieval import excess, gain, ndcg, shortfall
from limbeck.roles import frozen


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None)
@given(seed=st.integers(0, 100), k=st.integers(1, 12))
def test_the_gain_is_that_of_scikit_learn(seed: int, k: int) -> None:
    score, relevant = drawn(seed, 6, 9), drawn(seed + 1, 6, 9) > 0
    relevant[:, 0] = True
    assert gain(score, relevant, k).mean().item() == pytest.approx(ndcg_score(relevant.numpy(), score.numpy(), k=k))


def world(seed: int = 0, *, widths: tuple[int, int] = (7, 7)) -> tuple[Players, dict[str, Table]]:
    """Two players that know each row's number, and rows of which every third is a query."""
    vectors = {n: drawn(seed + i, 30, w) for i, (n, w) in enumerate(zip(("student", "teacher"), widths, strict=True))}
    players = {
        n: Player(n, frozen(), answer=lambda b, want, v=v: {"embedding": v[b["row"]]}) for n, v in vectors.items()
    }
    row = torch.arange(30)
    return Players(players), {"test": Table({"row": row, "document": row % 3 > 0, "y": row % 4})}


def by_hand(players: Players, queries: str, documents: str, dims: int) -> float:
    row = torch.arange(30)
    q, d = (players[n](Batch({"row": row}), "embedding")[:, :dims] for n in (queries, documents))
    cosine = torch.nn.functional.cosine_similarity(q[:, None], d[None], dim=-1)
    asked = row % 3 == 0
    same = (row[:, None] % 4 == row % 4)[asked][:, ~asked]
    return float(ndcg_score(same.numpy(), cosine[asked][:, ~asked].numpy(), k=5))


@pytest.mark.parametrize("documents", ["student", "teacher"])
@pytest.mark.parametrize("dims", [3, 7])
def test_documents_are_ranked_by_the_cosine_of_what_is_kept(documents: str, dims: int) -> None:
    players, data = world()
    got = ndcg(documents=documents, dims=dims, k=5)(players, data)
    assert got == pytest.approx(by_hand(players, "student", documents, dims))
    assert ndcg(documents=documents, k=5)(players, data) == pytest.approx(by_hand(players, "student", documents, 7))


def test_rounding_to_many_levels_changes_nothing_and_to_one_leaves_the_largest_features() -> None:
    players, data = world()
    exact, fine, coarse = (ndcg(levels=levels)(players, data) for levels in (0, 10**6, 1))
    assert exact == fine != coarse
    vectors = drawn(0, 30, 7)
    rounded = (vectors / vectors.norm(torch.inf, dim=1, keepdim=True)).round()
    coarse_players = Players(
        {"student": Player("student", frozen(), answer=lambda b, _: {"embedding": rounded[b["row"]]})}
    )
    assert coarse == ndcg()(coarse_players, data)


def test_one_index_holds_one_size() -> None:
    players, data = world(widths=(7, 5))
    with pytest.raises(Mismatch, match="student and teacher give embeddings of 7 and 5 features"):
        ndcg(documents="teacher")(players, data)


@part
def number(players: Players, data: object, *, value: float = 1.0) -> float:
    """A figure that is given."""
    return value


@pytest.mark.parametrize(("of", "than", "share"), [(0.9, 1.0, 0.1), (0.3, 0.4, 0.25), (0.5, 0.4, 0.0)])
def test_a_shortfall_is_a_share_and_never_negative(of: float, than: float, share: float) -> None:
    probe = shortfall(of=number(value=of), than=number(value=than))
    assert probe(None, {}) == pytest.approx(share)


@pytest.mark.parametrize(("of", "over", "above"), [(0.3, 0.1, 0.2), (0.1, 0.3, 0.0)])
def test_an_excess_is_a_difference_and_never_negative(of: float, over: float, above: float) -> None:
    assert excess(of=number(value=of), over=number(value=over))(None, {}) == pytest.approx(above)
