"""Feedback: the gradient is that of the reward at what is believed, and stops at the margin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import Mismatch
from limbeck.parts.feedback import reward_feedback
from limbeck.players import Player, Players
from limbeck.roles import frozen


class Scaled(nn.Module):
    """x0 = k x."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, Tensor]:
        return {"x0": self.k * batch["x"]}


def cast(flat: bool = True) -> Players:
    def reward(batch: Batch, want: frozenset[str]) -> dict[str, Tensor]:
        return {"reward": -batch.x.square().sum(1) if flat else -batch.x.square()}

    student = Player("student", frozen(), Scaled())
    return Players({"student": student, "reward": Player("reward", frozen(), answer=reward)})


def rows() -> Batch:
    return Batch({"x": torch.tensor([[1.0, 2.0], [0.1, 0.0]], dtype=torch.float64), "t": torch.ones(2)})


@pytest.mark.parametrize(("margin", "slope"), [(0.0, 2 * 0.5 * 5.01), (-0.5, 2 * 0.5 * 5.0), (float("inf"), 5.01)])
def test_the_gradient_is_that_of_the_reward_until_the_margin(margin: float, slope: float) -> None:
    players = cast()
    loss = reward_feedback(margin=margin)(players, rows())
    assert loss.shape == (2,)
    loss.sum().backward()
    assert float(players.student.module.k.grad) == pytest.approx(slope)  # type: ignore[union-attr]


def test_a_reward_of_every_coordinate_is_refused() -> None:
    with pytest.raises(Mismatch, match=r"one number a row, \(2,\)"):
        reward_feedback()(cast(flat=False), rows())
