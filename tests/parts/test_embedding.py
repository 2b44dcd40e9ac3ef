"""Embeddings drawn together, against SciPy and geometry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import Mismatch, UnknownName
from limbeck.parts.embedding import cosine_distance, remember
from limbeck.players import Player, Players
from limbeck.roles import frozen


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def game(student: Tensor, teacher: Tensor) -> Players:
    def player(name: str, rows: Tensor) -> Player:
        return Player(name, frozen(), answer=lambda batch, want: {"embedding": rows, "features": rows + 1})

    return Players({"student": player("student", student), "teacher": player("teacher", teacher)})


def rows() -> Batch:
    """Five rows about which nobody has been asked yet: a batch remembers answers."""
    return Batch({"x": torch.arange(5.0)[:, None], "index": torch.arange(5)})


@settings(deadline=None)
@given(seed=st.integers(0, 200), width=st.integers(2, 9))
def test_the_distance_is_that_of_scipy_and_of_unit_vectors(seed: int, width: int) -> None:
    s, t = drawn(seed, 5, width), drawn(seed + 1, 5, width)
    got = cosine_distance()(game(s, t), rows())
    assert got.tolist() == pytest.approx([cosine(a, b) for a, b in zip(s.numpy(), t.numpy(), strict=True)])
    apart = (s / s.norm(dim=1, keepdim=True) - t / t.norm(dim=1, keepdim=True)).square().sum(1) / 2
    torch.testing.assert_close(got, apart)


@settings(deadline=None)
@given(scale=st.floats(0.01, 100))
def test_lengths_do_not_matter_and_directions_do(scale: float) -> None:
    t = drawn(0, 5, 4)
    assert cosine_distance()(game(scale * t, t), rows()).abs().max() < 1e-9
    assert cosine_distance()(game(-scale * t, t), rows()).tolist() == pytest.approx([2.0] * 5)


def test_the_gradient_turns_and_does_not_stretch() -> None:
    s, t = drawn(0, 5, 4).requires_grad_(), drawn(1, 5, 4)
    (slope,) = torch.autograd.grad(cosine_distance()(game(s, t), rows()).sum(), s)
    assert (slope * s).sum(1).abs().max() < 1e-9
    # A small step against it brings the directions nearer.
    nearer = cosine_distance()(game(s - 0.01 * slope, t), rows())
    assert (nearer < cosine_distance()(game(s, t), rows())).all()


def test_embeddings_of_different_sizes_are_refused() -> None:
    with pytest.raises(Mismatch, match="embeddings of 4 and 3 features"):
        cosine_distance()(game(drawn(0, 5, 4), drawn(1, 5, 3)), rows())


def test_what_is_remembered_is_what_the_teacher_said_about_each_row() -> None:
    t = drawn(1, 5, 3)
    kept = remember()(game(t, t), rows())
    assert torch.equal(kept["cache.embedding"], t)
    assert "index" not in kept and torch.equal(kept["x"], rows()["x"])
    assert torch.equal(remember(want="features")(game(t, t), rows())["cache.features"], t + 1)
    with pytest.raises(UnknownName, match="embeding"):
        remember(want="embeding")(game(t, t), rows())
