"""The trained teacher of mog8c_learnt against the exact fields of each class and of none."""

from __future__ import annotations

import torch

from limbeck.beds import load_bed
from limbeck.beds.mog8c_learnt import CLASSES


def test_the_teacher_is_near_the_exact_fields_of_each_class_and_of_none() -> None:
    bed = load_bed("mog8c_learnt")
    rows = bed.data(7)["test"].take(torch.arange(4000))
    e = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    batch = {"x": 0.4 * rows["x"] + 0.6 * e, "t": torch.full((4000,), 0.6)}
    for y in (rows["y"], torch.full_like(rows["y"], CLASSES)):
        asked = {
            n: bed.players[n](0)(batch | {"y": y}, frozenset({"velocity"})) for n in ("teacher", "oracle", "critic")
        }
        gaps = {
            n: (a["velocity"] - asked["oracle"]["velocity"]).square().sum(1).mean().item() for n, a in asked.items()
        }
        assert gaps["teacher"] < 0.06 and gaps["critic"] > 0.4  # an untrained one
