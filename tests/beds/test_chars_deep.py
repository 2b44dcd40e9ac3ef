"""The deep teacher of characters: better than counting, and by its depth."""

from __future__ import annotations


import torch

from limbeck.adapters.surgery import shrink
from limbeck.beds import chars, chars_deep
from limbeck.parts.truncated import both_ends
from limbeck.probes.language import nll
from limbeck.players import Player, Players
from limbeck.roles import frozen


def measured(net: torch.nn.Module) -> float:
    return nll(limit=64)(Players({"student": Player("student", frozen(), net)}), chars.splits(0))


def test_the_teacher_predicts_better_than_the_count_and_with_all_its_layers() -> None:
    teacher = chars_deep.teacher()
    found = measured(teacher)
    assert found < measured(chars.teacher()) - 0.04
    assert len(teacher.lm.model.layers) == 6 and next(teacher.parameters()).dtype == torch.float32
    assert measured(shrink(teacher, both_ends()(6, 3))) > found + 0.3


def test_the_student_has_the_shape_of_half_the_teacher() -> None:
    half = shrink(chars_deep.teacher(), [0, 2, 4])
    shapes = [{name: w.shape for name, w in net.named_parameters()} for net in (half, chars_deep.student(0))]
    assert shapes[0] == shapes[1] and shapes[0]
