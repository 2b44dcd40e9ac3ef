"""The trained teacher of mog8_learnt against the exact field."""

from __future__ import annotations

import torch

from limbeck.assets.build_mog8 import excess
from limbeck.beds import load_bed

BED = load_bed("mog8_learnt")


def test_the_teacher_is_near_the_exact_field_where_data_are() -> None:
    teacher, oracle = BED.players["teacher"](0), BED.players["oracle"](0)
    assert 1e-4 < excess(teacher, 4000) < 0.02
    assert excess(oracle, 100) == 0.0
    assert excess(BED.players["critic"](0), 4000) > 1.0  # an untrained one


def test_it_errs_more_where_they_are_rare() -> None:
    x, t = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)), torch.full((4000,), 0.1)
    answers = [BED.players[n](0)({"x": x, "t": t}, frozenset({"velocity"}))["velocity"] for n in ("teacher", "oracle")]
    assert float((answers[0] - answers[1]).detach().square().sum(1).mean()) > 0.02


def test_the_student_starts_as_the_teacher_near_the_centre() -> None:
    student, teacher = BED.players["student"](0), BED.players["teacher"](1)
    z = {"z": torch.randn(500, 2, generator=torch.Generator().manual_seed(0))}
    x, same = (net(z, frozenset({"sample"}))["sample"] for net in (student, teacher))
    assert torch.equal(x, same) and bool((x.norm(dim=1) < 1).all())
    assert student is not teacher
