"""Guidance as players: guided velocities are guided scores, and a view has no weights of its own."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue
from limbeck.parts.guided import View, guided_student, guided_teacher
from limbeck.players import Player, Players
from limbeck.roles import frozen


def test_guided_velocities_are_guided_scores() -> None:
    # v = -(x + t score) / (1 - t) on this path: guidance of one is guidance of the other
    bed = load_bed("mog8c")
    players = Players({"teacher": Player("teacher", frozen(), bed.players["oracle"](0))})
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
    asked = {"x": x, "t": t, "y": torch.arange(64) % 4}
    found = guided_teacher(scale=3.0)(players, Batch(asked))(asked, frozenset({"velocity", "score"}))
    by_score = -(x + t[:, None] * found["score"]) / (1 - t[:, None])
    torch.testing.assert_close(found["velocity"], by_score, atol=1e-8, rtol=1e-8)
    plain = players.teacher(Batch(asked), "velocity")
    assert float((found["velocity"] - plain).abs().max()) > 0.1
    torch.testing.assert_close(
        guided_teacher(scale=1.0)(players, Batch(asked))(asked, frozenset({"velocity"}))["velocity"], plain
    )


def test_a_view_follows_the_weights_and_owns_none() -> None:
    net = fresh(0, 2, classes=4)
    players = Players({"student": Player("student", frozen(), net)})
    view = guided_student(scale=2.0)(players, Batch({"x": torch.ones(2, 2)}))
    assert not list(view.parameters()) and not view.state_dict()
    asked = {"x": torch.ones(2, 2), "t": torch.ones(2), "y": torch.tensor([0, 3])}
    before = view(asked, frozenset({"velocity"}))["velocity"]
    with torch.no_grad():
        net.out.bias += 1.0
    # without + w (with - without) shifts by the shift of both
    torch.testing.assert_close(view(asked, frozenset({"velocity"}))["velocity"], before + 1.0)
    with pytest.raises(BadValue, match="unconditional"):
        View(Player("plain", frozen(), fresh(0, 2)), 2.0)
    assert View(Player("plain", frozen(), fresh(0, 2)), 1.0).classes == 0
