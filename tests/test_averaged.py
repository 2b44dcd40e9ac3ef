"""A moving average of the product: its weights by hand from those of every step, and what has none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from limbeck.api import distill
from limbeck.averaged import averaged
from limbeck.beds import load_bed
from limbeck.errors import BadValue
from limbeck.index import load


def test_what_is_kept_is_the_average_over_steps(tmp_path: Path) -> None:
    def weights(steps: int, average: float = 0.0) -> dict[str, torch.Tensor]:
        rate = {"student.optimizer.lr": 0.05}
        out = tmp_path / f"{steps}-{average}"
        distill("vkd", data="digits_few", out=out, steps=steps, batch_size=32, average=average, set=rate)
        return load_file(out / "student" / "model.safetensors")

    steps = [weights(n) for n in (1, 2, 3)]
    first = load_bed("digits_few").players["student"](0).state_dict()
    by_hand = {name: next(w for at, w in first.items() if at.endswith(name)) for name in steps[0]}
    for after in steps:
        by_hand = {name: 0.5 * w + 0.5 * after[name] for name, w in by_hand.items()}
    kept = weights(3, average=0.5)
    for name, w in kept.items():
        torch.testing.assert_close(w, by_hand[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(BadValue, match="inside"):
        averaged(load("kd"), decay)


def test_an_average_is_added_once() -> None:
    with pytest.raises(BadValue, match="'averaged' of its own"):
        averaged(averaged(load("vkd"), 0.9), 0.9)


def test_a_product_that_does_not_learn_has_no_average() -> None:
    with pytest.raises(BadValue, match="random-data makes 'synthetic', whose weights do not learn"):
        averaged(load("random-data"), 0.9)
