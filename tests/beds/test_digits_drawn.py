"""The bed of drawn digits: its teacher draws what a classifier that it never met reads, and does not copy."""

from __future__ import annotations

import torch

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds.digits_drawn import painter
from limbeck.players import Player, Players
from limbeck.roles import frozen


def test_the_teacher_draws_its_classes_and_does_not_copy() -> None:
    bed = load_bed("digits_drawn")
    data = bed.data(0)
    batch = Batch(data["test"].take(torch.arange(200)))
    teacher = Player("student", frozen(), bed.players["teacher"](0))
    with torch.no_grad():
        drawn = bed.samplers["teacher"](Players({"student": teacher}), batch)
    logits = bed.players["classifier"](0)({"x": (drawn + 1) / 2}, frozenset({"logits"}))["logits"]
    assert float((logits.argmax(1) == batch.y).float().mean()) > 0.95
    seen = data["train"].take(torch.arange(1000))["x"].flatten(1)
    near, truly = (torch.cdist(x.flatten(1), seen).min(1).values.mean() for x in (drawn, batch.x))
    assert float(near) > 0.85 * float(truly)  # as far from the teacher's pictures as unseen ones are


def test_student_and_teacher_start_alike_and_fresh_ones_differ() -> None:
    bed = load_bed("digits_drawn")
    same = [dict(bed.players[who](seed).state_dict()) for who, seed in (("teacher", 0), ("student", 5))]
    assert all(torch.equal(same[0][k], same[1][k]) for k in same[0])
    assert not torch.equal(painter(1).net.out.weight, painter(2).net.out.weight)
