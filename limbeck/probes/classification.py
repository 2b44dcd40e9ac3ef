"""How well classes are predicted: accuracy, and three measures of the probabilities.

Legend of shapes: N rows of the test split, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import part
from limbeck.players import Players

__all__ = ["accuracy", "agreement", "answers", "brier", "ece", "nll"]


@torch.no_grad()
def answers(players: Players, data: Mapping[str, Source], player: str, *, split: str = "test") -> tuple[Tensor, Tensor]:
    """Ask a player for the class scores of a whole split.

    Args:
        players: the players.
        data: the splits.
        player: whom to ask.
        split: the split.

    Returns:
        logits (N, C), and the classes y (N,).

    Raises:
        UnknownName: there is no such player, or it does not answer "logits".
    """
    rows = Batch(data[split].take(torch.arange(len(data[split]))))
    return players[player](rows, "logits"), rows.y


@part(higher=True)
def accuracy(players: Players, data: Mapping[str, Source], *, player: str = "student") -> float:
    """The share of the test rows whose class has the largest score.

    mean [argmax_c z_c = y]

    Raises:
        UnknownName: there is no such player, or it does not answer "logits".

    Example:
        >>> from limbeck.data import Table
        >>> players = {"student": lambda rows, want: rows.x}
        >>> data = {"test": Table({"x": torch.tensor([[0.0, 9.0], [0.0, 9.0]]), "y": torch.tensor([1, 0])})}
        >>> accuracy()(players, data)
        0.5
    """
    logits_NC, y_N = answers(players, data, player)
    return float((logits_NC.argmax(-1) == y_N).float().mean())


@part(higher=True)
def agreement(
    players: Players, data: Mapping[str, Source], *, player: str = "student", teacher: str = "teacher"
) -> float:
    """The share of the test rows to which two players give the same class: the fidelity of a student.

    mean [argmax_c s_c = argmax_c t_c]

    Raises:
        UnknownName: there is no such player, or it does not answer "logits".

    Example:
        >>> from limbeck.data import Table
        >>> players = {"student": lambda rows, want: rows.x}
        >>> data = {"test": Table({"x": torch.tensor([[0.0, 9.0], [0.0, 9.0]]), "y": torch.tensor([1, 0])})}
        >>> agreement(teacher="student")(players, data)
        1.0

    Source: Stanton et al., "Does Knowledge Distillation Really Work?", arXiv:2106.05945.
    """
    classes = [answers(players, data, name)[0].argmax(-1) for name in (player, teacher)]
    return float((classes[0] == classes[1]).float().mean())


@part
def nll(players: Players, data: Mapping[str, Source], *, player: str = "student") -> float:
    """The mean negative log-likelihood of the true class, in nats.

    mean -log p(y | x)

    Raises:
        UnknownName: there is no such player, or it does not answer "logits".

    Example:
        >>> from limbeck.data import Table
        >>> players = {"student": lambda rows, want: rows.x}
        >>> data = {"test": Table({"x": torch.tensor([[0.0, 9.0], [0.0, 9.0]]), "y": torch.tensor([1, 0])})}
        >>> round(nll()(players, data), 3)
        4.5
    """
    return float(cross_entropy(*answers(players, data, player)))


@part
def brier(players: Players, data: Mapping[str, Source], *, player: str = "student") -> float:
    """The mean squared distance of the probabilities from the true class, between 0 and 2.

    mean sum_c (p_c - [c = y])^2

    Raises:
        UnknownName: there is no such player, or it does not answer "logits".

    Example:
        >>> from limbeck.data import Table
        >>> players = {"student": lambda rows, want: rows.x}
        >>> data = {"test": Table({"x": torch.tensor([[0.0, 9.0], [0.0, 9.0]]), "y": torch.tensor([1, 0])})}
        >>> round(brier()(players, data), 3)
        1.0

    Source: Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950).
    """
    logits_NC, y_N = answers(players, data, player)
    return float((logits_NC.softmax(-1) - one_hot(y_N, logits_NC.shape[-1])).square().sum(-1).mean())


@part
def ece(players: Players, data: Mapping[str, Source], *, player: str = "student", bins: int = 15) -> float:
    """The expected calibration error over bins of equal width.

    sum_b |B_b| / N |accuracy(B_b) - confidence(B_b)|, with row i in bin ceil(bins max_c p_c)

    Raises:
        UnknownName: there is no such player, or it does not answer "logits".

    Example:
        >>> from limbeck.data import Table
        >>> players = {"student": lambda rows, want: rows.x}
        >>> data = {"test": Table({"x": torch.tensor([[0.0, 9.0], [0.0, 9.0]]), "y": torch.tensor([1, 0])})}
        >>> round(ece()(players, data), 3)
        0.5

    Source: Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, equation 3.
    """
    logits_NC, y_N = answers(players, data, player)
    confidence_N, class_N = logits_NC.double().softmax(-1).max(-1)
    excess_N = (class_N == y_N).double() - confidence_N
    bin_N = (confidence_N * bins).ceil().long().clamp(1, bins) - 1
    per_bin = torch.zeros(bins, dtype=torch.double).index_add(0, bin_N.cpu(), excess_N.cpu())
    return float(per_bin.abs().sum() / len(y_N))
