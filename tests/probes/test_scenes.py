"""Probes of scenes against samples whose figures are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.beds import load_bed
from limbeck.data import Table
from limbeck.part import part
from limbeck.players import Player, Players
from limbeck.probes.scenes import drawn_accuracy, oversaturation, psnr, sharpness_error, spread_error
from limbeck.roles import frozen

DATA = {"test": Table(dict(load_bed("mog8").data(0)["test"].take(torch.arange(4000))))}
DIGITS = load_bed("digits_flawed")


@part
def shrunk(players, batch, *, by: float = 1.0):
    """The data, drawn towards the means of their modes."""
    means = torch.stack([batch.x[batch.mode == k].mean(0) for k in range(8)])[batch.mode]
    return means + by * (batch.x - means)


@part
def scaled(players, batch, *, by: float = 1.0, turn: int = 0):
    """The data, brighter, and in another order."""
    return by * batch.x.roll(turn, 0)


@pytest.mark.parametrize("by", [1.0, 0.4, 0.0, 1.5])
def test_the_error_of_the_spread_is_by_how_much_modes_shrank(by: float) -> None:
    assert abs(spread_error(draw=shrunk(by=by), rows=4000)(Players({}), DATA) - abs(1 - by)) < 1e-3


def test_detail_of_pictures_at_half_their_contrast_is_a_quarter() -> None:
    data = DIGITS.data(0)
    assert sharpness_error(draw=scaled())(Players({}), data) < 1e-6
    assert abs(sharpness_error(draw=scaled(by=0.5))(Players({}), data) - math.log(4)) < 1e-6


def test_pixels_out_of_range_are_counted_by_how_far() -> None:
    data = {"test": Table({"x": torch.tensor([[0.5, 1.0], [-1.0, 0.25]])})}
    assert oversaturation(draw=scaled())(Players({}), data) == 0
    assert abs(oversaturation(draw=scaled(by=2.0))(Players({}), data) - math.sqrt(2 / 4)) < 1e-6


def test_drawn_digits_are_judged_by_a_classifier() -> None:
    players = Players({"classifier": Player("classifier", frozen(), DIGITS.players["classifier"](0))})
    assert drawn_accuracy(draw=scaled())(players, DIGITS.data(0)) > 0.97
    assert drawn_accuracy(draw=scaled(turn=1))(players, DIGITS.data(0)) < 0.25


class Off(nn.Module):
    def forward(self, batch, want):
        return {"x0": batch["x"] + 0.1}


def test_an_error_of_a_tenth_is_twenty_decibels() -> None:
    players = Players({"student": Player("student", frozen(), Off())})
    assert abs(psnr()(players, DATA) - 20) < 1e-3
    assert abs(psnr(peak=10.0)(players, DATA) - 40) < 1e-3
