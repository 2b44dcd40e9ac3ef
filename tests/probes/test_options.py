"""Multiple choice: accuracy and calibration against the truth of a bed and against counting by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.beds import majority
from limbeck.beds._text import Alphabet, ExactLM
from limbeck.data import Table
from limbeck.errors import BadData, BadValue
from limbeck.players import Player, Players
from limbeck.probes.options import answered, both_ways, option_accuracy, option_ece
from limbeck.roles import frozen


class Always(nn.Module):
    """The same scores (V,) after every token."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.register_buffer("scores", scores)

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        return self.scores.expand(*tokens.shape, -1).clamp(min=-40.0)


def seated(net: ExactLM) -> Players:
    return Players({"student": Player("student", frozen(), net)})


def test_the_truth_is_calibrated_and_the_teacher_is_not() -> None:
    data = majority.splits(0)
    best, sure = (seated(net) for net in (majority.oracle(), majority.teacher()))
    for split in ("test", "shifted"):
        assert option_ece(split=split)(best, data) < 0.03
        assert option_ece(split=split)(sure, data) > 0.1
    sides = [option_ece(split=split)(sure, data) for split in ("test", "shifted")]
    assert both_ways()(sure, data) == pytest.approx(sum(sides) / 2)
    assert option_accuracy()(best, data) == pytest.approx(option_accuracy()(sure, data), abs=0.03)
    assert option_accuracy(split="shifted")(best, data) > option_accuracy()(best, data) + 0.05


def test_figures_are_those_of_counting_by_hand() -> None:
    # the model says A with 0.8, B with 0.2, whatever is asked; three rows in four say A
    alphabet = Alphabet("ABx")
    scores = torch.tensor([0, 0, 0, 0, 0.8, 0.2, 5.0]).log()
    net = ExactLM(Always(scores), 7, alphabet.tokenizer())
    tokens = torch.tensor([[1, 6, 4], [1, 6, 4], [1, 6, 5], [1, 6, 4], [1, 6, 6]])
    mask = torch.tensor([[False, False, True]]).expand(5, -1)  # the last row's target is no option
    data = {"test": Table({"tokens": tokens, "mask": mask})}
    options = ("A", "B")
    probs, truth = answered(seated(net)["student"], data["test"], options)
    assert truth.tolist() == [0, 0, 1, 0]
    torch.testing.assert_close(probs[0], torch.tensor([0.8, 0.2], dtype=torch.float64))
    assert option_accuracy(options=options)(seated(net), data) == 0.75
    assert option_ece(options=options)(seated(net), data) == pytest.approx(0.05)
    with pytest.raises(BadData, match="no target"):
        answered(seated(net)["student"], Table({"tokens": tokens[4:], "mask": mask[4:]}), options)
    with pytest.raises(BadValue, match="one token"):
        option_ece(options=("A", "xx"))(seated(net), data)
