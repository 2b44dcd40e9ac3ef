"""Classifier-free guidance: the field of a class is pushed away from the field of none.

A net with classes 0 .. K - 1 in the column y takes y = K for no class, as class-conditional transformers do. The scale
w is 1 for the plain field of the class (papers that count from 0 say w - 1); it may differ from row to row, in the
column w. A guided teacher is a net like any other, so every recipe distils it as it does a plain one.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.states import like
from limbeck.players import Player, Players

__all__ = ["Guided", "dropped_labels", "guidance_scales", "guided"]

LINEAR = frozenset({"velocity", "x0", "eps", "score"})


class Guided(nn.Module):
    """A conditional field under guidance; two evaluations in one batch of twice the rows.

    v_w = v(x, t, none) + w (v(x, t, y) - v(x, t, none)); the same for x0, eps and score

    Args:
        net: answers on columns x, t, y, with `classes`, the number of classes K.
        scale: w where the batch has no column w.

    Raises:
        BadValue: a net without classes.

    Source: Ho and Salimans, arXiv:2207.12598, with w counted from 1.
    """

    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.classes = int(getattr(net, "classes", 0))
        if not self.classes:
            raise BadValue(f"guidance needs a net with classes; {type(net).__name__} is unconditional")
        self.net, self.scale = net, scale

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "velocity", "x0", "eps" and "score" under guidance; anything else as the net does for the class."""
        linear, plain = want & LINEAR, want - LINEAR
        out = self.net(batch, plain) if plain else {}
        if not linear:
            return dict(out)
        columns = {k: c for k, c in batch.items() if isinstance(c, Tensor) and k != "w"}
        y = columns["y"]
        doubled = {k: torch.cat((c, c)) for k, c in columns.items()}
        doubled["y"] = torch.cat((y, torch.full_like(y, self.classes)))
        for name, answer in self.net(doubled, linear).items():
            with_class, without = answer.chunk(2)
            w = like(batch["w"], without) if "w" in batch else self.scale
            out[name] = without + w * (with_class - without)
        return out


def guided(field: Player, batch: Batch, want: str, scale: float = 1.0) -> Tensor:
    """What a field says of the class in y, pushed away from what it says of none; at a scale of 1 of the class alone.

    v(x, t, none) + w (v(x, t, y) - v(x, t, none)); the same for x0, eps and score

    Args:
        field: answers on columns x, t, y.
        batch: the states; y may be missing at a scale of 1.
        want: "velocity", "x0", "eps" or "score".
        scale: w.

    Returns:
        (B, ...).

    Raises:
        BadValue: a scale other than 1 for a field without classes, or without a class of every row.

    Source: Ho and Salimans, arXiv:2207.12598, with w counted from 1.
    """
    with_class: Tensor = field(batch, want)
    if scale == 1:
        return with_class
    classes = int(getattr(field, "classes", 0) or 0)
    if not classes or "y" not in batch:
        raise BadValue(f"guidance by {scale:g} needs a class of every row; player {field.name!r} has {classes} classes")
    without: Tensor = field(batch.with_(y=torch.full_like(batch.y, classes)), want)
    return without + scale * (with_class - without)


@part
def dropped_labels(players: Players, batch: Batch, *, share: float = 0.1) -> Batch:
    """Take the class from a share of the rows, so that one net learns the field of each class and of none.

    y -> K with probability p

    Args:
        players: the student has `classes`, K.
        batch: rows with a class in y.
        share: p.

    Returns:
        The batch with y replaced.

    Raises:
        BadValue: an unconditional student, or a class outside 0 .. K.

    Source: Ho and Salimans, arXiv:2207.12598, training with guidance.
    """
    classes = int(getattr(players.student, "classes", 0) or 0)
    if not classes:
        raise BadValue("labels can only be dropped for a student with classes; this one is unconditional")
    y = batch.y
    if bool(((y < 0) | (y > classes)).any()):
        raise BadValue(f"the column y holds {int(y.max())} and {int(y.min())}, the student has {classes} classes")
    gone = batch.rng.uniform("label").view(-1) < share
    return batch.with_(y=torch.where(gone, torch.full_like(y, classes), y))


@part
def guidance_scales(players: Players, batch: Batch, *, low: float = 1.0, high: float = 4.0) -> Batch:
    """Give every row a guidance scale of its own, for students that take it as an input.

    w ~ U(low, high)

    Args:
        players: not asked.
        batch: the rows.
        low: the least scale; 1 is no guidance.
        high: the greatest.

    Returns:
        The batch with the column w.

    Example:
        >>> batch = guidance_scales(low=2.0, high=2.0)(None, Batch({"x": torch.zeros(2, 1)}))
        >>> batch.w
        tensor([2., 2.])

    Source: Meng et al., arXiv:2210.03142, the first of two stages.
    """
    return batch.with_(w=low + (high - low) * batch.rng.uniform("guidance").view(-1))
