"""Probes of scenes against samples whose figures are known."""

from __future__ import annotations

import pytest
import torch

from limbeck.beds import load_bed
from limbeck.data import Table
from limbeck.part import part
from limbeck.players import Players
from limbeck.probes.scenes import spread_error

DATA = {"test": Table(dict(load_bed("mog8").data(0)["test"].take(torch.arange(4000))))}


@part
def shrunk(players, batch, *, by: float = 1.0):
    """The data, drawn towards the means of their modes."""
    means = torch.stack([batch.x[batch.mode == k].mean(0) for k in range(8)])[batch.mode]
    return means + by * (batch.x - means)


@pytest.mark.parametrize("by", [1.0, 0.4, 0.0, 1.5])
def test_the_error_of_the_spread_is_by_how_much_modes_shrank(by: float) -> None:
    assert abs(spread_error(draw=shrunk(by=by), rows=4000)(Players({}), DATA) - abs(1 - by)) < 1e-3
