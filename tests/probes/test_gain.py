"""The gain is a difference of accuracies, and nothing between equal players."""

from __future__ import annotations

import pytest
import torch

from limbeck.beds.hints import base, bed, right_answer, student
from limbeck.data import Table
from limbeck.players import Player, Players
from limbeck.probes.gain import answer_gain
from limbeck.probes.language import answer_accuracy
from limbeck.roles import frozen


def test_gain_is_accuracy_less_the_accuracy_of_the_other() -> None:
    rows = bed.data(0)["test"].take(torch.arange(48))
    data = {"test": Table(dict(rows))}
    nets = {"student": base(), "same": base(), "blank": student(0)}
    players = Players({name: Player(name, frozen(), net) for name, net in nets.items()})
    how = {"verifier": right_answer(), "max_new_tokens": 8, "limit": 0}
    assert answer_gain(than="same", **how)(players, data) == 0.0
    right = answer_accuracy(**how)(players, data)
    assert right > 0.2
    assert answer_gain(than="blank", **how)(players, data) == pytest.approx(right, abs=0.05)
