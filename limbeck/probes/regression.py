"""How well real labels are predicted, and how near a kernel fit is to its closed form.

Legend of shapes: N rows of a split.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import part
from limbeck.parts.kernel import refitted, ridge
from limbeck.parts.likelihood import predict
from limbeck.players import Players

__all__ = ["gap_to_generation", "gap_to_ridge", "mse"]


@torch.no_grad()
def _fit(players: Players, data: Mapping[str, Source], player: str, split: str) -> tuple[Batch, Tensor]:
    rows = Batch(data[split].take(torch.arange(len(data[split]))))
    return rows, predict(players[player], rows)


def _rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


@part
def mse(players: Players, data: Mapping[str, Source], *, player: str = "student") -> float:
    """The mean squared error on the test rows.

    mean (z - y)^2

    Raises:
        UnknownName: there is no such player, or it does not answer "logits".

    Example:
        >>> from limbeck.data import Table
        >>> from limbeck.players import Player
        >>> from limbeck.roles import frozen
        >>> half = Player("half", frozen(), answer=lambda rows, want: {"logits": rows.x / 2})
        >>> data = {"test": Table({"x": torch.tensor([2.0, 4.0]), "y": torch.tensor([1.0, 4.0])})}
        >>> mse()({"student": half}, data)
        2.0
    """
    rows, fit_N = _fit(players, data, player, "test")
    return float((fit_N - rows.y).square().mean())


@part
def gap_to_ridge(players: Players, data: Mapping[str, Source], *, penalty: float = 1.0) -> float:
    """The distance of the student from kernel ridge regression on the labels, at the training rows.

    rms(student - K (K + penalty I)^-1 y)

    Args:
        players: the student has a `kernel(x)`.
        data: the rows it was fitted to, under "train".
        penalty: the weight of the squared norm.

    Raises:
        RuntimeError: K + penalty I is singular.

    Source: Saunders et al., "Ridge regression learning algorithm in dual variables", ICML 1998.
    """
    rows, fit_N = _fit(players, data, "student", "train")
    k_NN = players.student.kernel(rows.x)
    return _rms(fit_N - k_NN @ ridge(k_NN, rows.y, penalty=penalty))


@part
def gap_to_generation(
    players: Players, data: Mapping[str, Source], *, penalty: float = 1.0, weight: float = 1.0, generation: int = 1
) -> float:
    """The distance of the student from the closed form of its generation, at the training rows.

    rms(student - V B_tau V' y), see `limbeck.parts.kernel.shrinkage`

    Args:
        players: the student has a `kernel(x)`.
        data: the rows it was fitted to, under "train".
        penalty: the weight of the squared norm in every generation.
        weight: the weight of the labels in the targets.
        generation: how many fits lie behind the student.

    Source: Borup and Andersen, arXiv:2102.13088, theorem 4.1.
    """
    rows, fit_N = _fit(players, data, "student", "train")
    expected_N = refitted(players.student.kernel(rows.x), rows.y, penalty=penalty, weight=weight, generation=generation)
    return _rms(fit_N - expected_N)
