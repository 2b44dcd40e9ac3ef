"""Pairs of noise and datum: on the exact flow of a Gaussian, back and forth, and what is learnt from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.errors import BadValue
from limbeck.parts.pairs import (
    end_matching,
    independent_pairs,
    inverted_pairs,
    pair_ends,
    sampled_pairs,
    straight_states,
)
from limbeck.parts.solver import even, heun, midpoint
from limbeck.parts.states import uniform_levels
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

MEAN, STD = torch.tensor([[0.7, -0.3]], dtype=torch.float64), 0.4
TEACHER = Players({"teacher": Player("teacher", frozen(), ExactField(Mixture(torch.ones(1), MEAN, STD)))})


def rows(n: int = 64) -> Batch:
    x = MEAN + STD * torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Batch({"x": x, "y": torch.arange(n)}, rng=Rng(("pairs", 0), torch.arange(n)))


def test_a_pair_lies_on_the_flow_and_keeps_its_row() -> None:
    # the flow of one Gaussian is known: x(0) = m + std e
    made = sampled_pairs(solver=midpoint(), times=even(100))(TEACHER, rows())
    torch.testing.assert_close(made.x, MEAN + STD * made.e, atol=1e-4, rtol=0)
    assert abs(float(made.e.mean())) < 0.2 and abs(float(made.e.std()) - 1) < 0.15
    assert torch.equal(made.y, torch.arange(64))


def test_copies_are_different_pairs_of_the_same_rows() -> None:
    made = sampled_pairs(times=even(4), copies=3)(TEACHER, rows(8))
    assert made.size == 24 and torch.equal(made.y, torch.arange(8).repeat(3))
    assert len(made.e[:, 0].unique()) == 24
    with pytest.raises(BadValue, match="copies = 0"):
        sampled_pairs(copies=0)(TEACHER, rows(8))


def test_inversion_is_the_way_back() -> None:
    given = rows()
    made = inverted_pairs(solver=heun(), times=even(200, 1e-4, 1.0))(TEACHER, given)
    assert torch.equal(made.x, given.x)
    torch.testing.assert_close(made.e, (given.x - MEAN) / STD, atol=2e-3, rtol=0)
    with pytest.raises(BadValue, match="up to the noise"):
        inverted_pairs(times=even(4))(TEACHER, given)


def test_straight_lines_run_from_the_datum_to_the_noise() -> None:
    pair = rows().with_(e=torch.ones(64, 2, dtype=torch.float64))
    there = straight_states(levels=uniform_levels(low=0.0, high=1.0))(TEACHER, pair)
    t = there.t[:, None]
    torch.testing.assert_close(there.x - t * there.velocity, pair.x)
    torch.testing.assert_close(there.x + (1 - t) * there.velocity, pair.e)
    assert torch.equal(there.real, pair.x) and 0.4 < float(there.t.mean()) < 0.6


def test_the_end_of_the_exact_map_matches_and_another_does_not() -> None:
    ends = pair_ends()(TEACHER, sampled_pairs(solver=heun(), times=even(200))(TEACHER, rows()))

    def mapped(shift: float) -> Tensor:
        answer = {"x0": MEAN + STD * ends.x + shift}
        student = Player("student", frozen(), answer=lambda b, w: answer)
        return end_matching()(Players({"student": student}), ends.with_(x=ends.x))

    assert mapped(0.0).shape == (64,) and float(mapped(0.0).max()) < 1e-5
    torch.testing.assert_close(mapped(1.0), torch.full((64,), 2.0, dtype=torch.float64), atol=0.02, rtol=0)


def test_independent_pairs_have_the_exact_field_as_their_mean_slope() -> None:
    # E[e - x | x_t] is affine for one Gaussian: least squares finds it
    many = rows(20_000)
    there = straight_states(levels=uniform_levels(low=0.6, high=0.6))(TEACHER, independent_pairs()(TEACHER, many))
    design = torch.cat((there.x, torch.ones(20_000, 1, dtype=torch.float64)), 1)
    fitted = design @ torch.linalg.lstsq(design, there.velocity).solution
    torch.testing.assert_close(fitted, TEACHER.teacher(there, "velocity"), atol=0.1, rtol=0)
