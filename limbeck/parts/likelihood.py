"""Losses that are linear in their targets: cross-entropy where labels are classes, squared error where they are real.

Both are A(z) - t . z plus what does not depend on the scores z, with prediction A'(z): softmax(z), or z itself. So a
fit to mixed targets a y + (1 - a) p is a fit to the mixed losses.

Legend of shapes: B rows, C classes or real outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.players import Player, Players

__all__ = [
    "ground_truth_weight",
    "imitation",
    "imitation_weight",
    "likelihood",
    "mixture",
    "optimal_weight",
    "predict",
    "truth",
]


def predict(player: Player, batch: Batch) -> Tensor:
    """What a player expects of the labels: probabilities (B, C) of classes, or real outputs shaped like them.

    Example:
        >>> from limbeck.roles import frozen
        >>> even = Player("even", frozen(), answer=lambda batch, want: {"logits": torch.zeros(1, 4)})
        >>> predict(even, Batch({"y": torch.tensor([2])}))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    scores = player(batch, "logits")
    return scores.reshape(batch.y.shape) if batch.y.is_floating_point() else scores.softmax(-1)


def truth(batch: Batch, like: Tensor) -> Tensor:
    """The labels in the space of predictions `like`: one-hot classes, or real labels themselves.

    Example:
        >>> truth(Batch({"y": torch.tensor([1, 0])}), torch.zeros(2, 3))
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
    """
    return batch.y if batch.y.is_floating_point() else one_hot(batch.y, like.shape[-1]).to(like.dtype)


def _half_squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().reshape(len(a), -1).sum(-1) / 2


@part
def likelihood(players: Players, batch: Batch) -> Tensor:
    """The student's negative log-likelihood of the labels `y`.

    -log softmax(z)_y for classes, 1/2 |z - y|^2 for real labels

    Args:
        players: the student answers "logits", (B, C) scores or real outputs.
        batch: y, (B,) int64 classes or (B, ...) real labels.

    Returns:
        (B,).

    Example:
        >>> from types import SimpleNamespace
        >>> players = SimpleNamespace(student=lambda batch, want: torch.tensor([[1.0], [2.0]]))
        >>> likelihood()(players, Batch({"y": torch.tensor([1.0, 4.0])}))
        tensor([0., 2.])
    """
    if batch.y.is_floating_point():
        return _half_squares(predict(players.student, batch), batch.y)
    return cross_entropy(players.student(batch, "logits"), batch.y, reduction="none")


@part
def imitation(players: Players, batch: Batch) -> Tensor:
    """The same loss, with the teacher's prediction p as the label.

    -sum_c p_c log softmax(z)_c for classes, 1/2 |z - p|^2 for real labels

    Args:
        players: student and teacher answer "logits", (B, C) scores or real outputs.
        batch: y says which of the two it is.

    Returns:
        (B,).

    Example:
        >>> from types import SimpleNamespace
        >>> even = lambda batch, want: torch.zeros(1, 2)
        >>> players = SimpleNamespace(student=even, teacher=even)
        >>> imitation()(players, Batch({"y": torch.tensor([0])}))
        tensor([0.6931])

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2.
    """
    target = predict(players.teacher, batch)
    if batch.y.is_floating_point():
        return _half_squares(predict(players.student, batch), target)
    return cross_entropy(players.student(batch, "logits"), target, reduction="none")


class _Weight(nn.Module):
    """A state player that holds one number."""

    weight: Tensor

    def __init__(self, start: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(start, dtype=torch.float64))


@part
def mixture(players: Players, batch: Batch, *, weight: float = 1.0) -> nn.Module:
    """A state player that holds the weight of the labels in mixed targets.

    Args:
        players: not asked.
        batch: not read.
        weight: its value until it is estimated.

    Example:
        >>> mixture(weight=0.5)(None, Batch({"x": torch.zeros(1)})).weight.item()
        0.5
    """
    return _Weight(weight)


@part
def ground_truth_weight(players: Players, batch: Batch) -> Tensor:
    """The weight a of the labels, as the player `mix` holds it, (B,).

    a

    Raises:
        UnknownName: there is no player `mix`.

    Source: Borup and Andersen, arXiv:2102.13088.
    """
    return players.mix.weight.to(torch.get_default_dtype()).expand(batch.size)


@part
def imitation_weight(players: Players, batch: Batch) -> Tensor:
    """The weight 1 - a of the teacher, as the player `mix` holds it, (B,).

    1 - a

    Raises:
        UnknownName: there is no player `mix`.

    Source: Borup and Andersen, arXiv:2102.13088.
    """
    return (1 - players.mix.weight).to(torch.get_default_dtype()).expand(batch.size)


@part
def optimal_weight(
    players: Players, batch: Batch, state: dict[str, Any], *, clip: bool = False
) -> tuple[dict[str, Any], dict[str, float]]:
    """Set the weight of the labels to the one under which the next generation predicts the held-out labels best.

    a* = <y - G, F - G> / |F - G|^2, the projection of the labels y on the line through F (at a = 1) and G (at a = 0)

    Args:
        players: `first` (F) was fitted to the labels, `echo` (G) to the teacher alone; `mix` takes a*.
        batch: held-out rows.
        state: not used.
        clip: whether to keep a* in [0, 1].

    Returns:
        The state as it was; the weight, and the mean squared errors of a* and of both ends.

    Raises:
        UnknownName: one of the players `first`, `echo` and `mix` is missing.

    Source: Borup and Andersen, arXiv:2102.13088, section 4.4.
    """
    with torch.no_grad():
        f, g = (predict(players[name], batch).double() for name in ("first", "echo"))
    y, span = truth(batch, f), f - g
    length = span.square().sum()
    best = torch.where(length > 0, ((y - g) * span).sum() / length, 1.0)  # all are equal where the fits agree
    best = best.clamp(0, 1) if clip else best
    players.mix.weight.copy_(best)
    errors = {name: (y - fit).square().mean() for name, fit in (("best", g + best * span), ("labels", f), ("echo", g))}
    return state, {"weight": float(best)} | {f"error.{name}": float(error) for name, error in errors.items()}
