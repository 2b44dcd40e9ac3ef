"""Digits with a class of bad pictures: what the field of that class knows that the others do not."""

from __future__ import annotations

import torch

from limbeck.beds import load_bed
from limbeck.beds.digits_flawed import FLAWED, NONE, spoilt
from limbeck.rng import Rng

BED = load_bed("digits_flawed")


def error(x: torch.Tensor, y: torch.Tensor) -> float:
    """How far the teacher's denoised picture is from the picture, at half noise, under a prompt."""
    noise = Rng(("noise",), torch.arange(len(x))).normal("e", *x.shape[1:])
    seen = {"x": 0.5 * x + 0.5 * noise, "t": torch.full((len(x),), 0.5), "y": y}
    with torch.no_grad():
        return float((BED.players["teacher"](0)(seen, frozenset({"x0"}))["x0"] - x).square().mean())


def test_the_field_of_bad_pictures_denoises_those_and_no_others_better() -> None:
    rows = BED.data(0)["test"].columns
    clean = rows["x"]
    bad = spoilt(clean, Rng(("spoil",), torch.arange(len(clean))))
    none, flawed = (torch.full((len(clean),), y) for y in (NONE, FLAWED))
    assert error(bad, flawed) < 0.8 * error(bad, none)
    assert error(clean, none) < 0.8 * error(clean, flawed)
    assert error(clean, rows["y"]) < error(clean, none)


def test_rows_of_every_prompt_are_answered_by_themselves() -> None:
    teacher, x = BED.players["teacher"](0), BED.data(0)["test"].columns["x"][:3]
    y, t = torch.tensor([2, FLAWED, NONE]), torch.full((3,), 0.4)
    together = teacher({"x": x, "t": t, "y": y}, frozenset({"eps"}))["eps"]
    for i in range(3):
        alone = teacher({"x": x[i : i + 1], "t": t[:1], "y": y[i : i + 1]}, frozenset({"eps"}))["eps"]
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
