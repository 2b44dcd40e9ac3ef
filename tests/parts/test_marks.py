"""The marks of DisBack: where they stand on the way from the teacher, in which order they are matched, and without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from limbeck.beds import load_bed
from limbeck.claim import arm_loop
from limbeck.index import load
from limbeck.loop import Loop
from limbeck.override import override, variant
from limbeck.recipe import Recipe

BED = load_bed("mog8_learnt")
STAGES = ("record.degrade", "last", "back.approach", "distill")
SMALL = {f"{stage}.{name}": value for stage in STAGES for name, value in (("steps", 3), ("batch_size", 8))}
RECIPE = override(load("disback"), {**SMALL, "critic.optimizer.lr": 1e-3, "student.optimizer.lr": 1e-3})


def ran(recipe: Recipe) -> Loop:
    loop = arm_loop(recipe, BED, 0)
    loop.execute()
    return loop


def flat(loop: Loop, name: str) -> Tensor:
    return torch.cat([p.detach().flatten() for p in loop.players[name].params])


def test_the_marks_lie_in_order_on_the_way_from_the_teacher_to_the_critic() -> None:
    loop = ran(replace(RECIPE, stages=RECIPE.stages[:2]))
    teacher = flat(loop, "teacher")
    away = [float((flat(loop, name) - teacher).norm()) for name in ("teacher", "far", "middle", "near", "critic")]
    assert away[0] == 0 and away == sorted(set(away))


def test_the_latest_mark_is_matched_first_and_the_teacher_last(monkeypatch: pytest.MonkeyPatch) -> None:
    matched: list[Tensor] = []
    end = Loop._end_round

    def noted(self: Loop, stage: object, mark: str) -> None:
        if mark.startswith("back"):
            matched.append(flat(self, "near"))
        end(self, stage, mark)

    monkeypatch.setattr(Loop, "_end_round", noted)
    loop = ran(RECIPE)
    teacher = flat(loop, "teacher")
    away = [float((mark - teacher).norm()) for mark in matched]
    assert len(away) == 3 and away[0] > away[1] > away[2] > 0


def test_without_marks_it_is_the_base_method_to_the_bit() -> None:
    plain = ran(replace(RECIPE, stages=RECIPE.stages[-1:]))
    assert torch.equal(flat(ran(variant(RECIPE, "base")), "student"), flat(plain, "student"))
    assert not torch.equal(flat(ran(RECIPE), "student"), flat(plain, "student"))
