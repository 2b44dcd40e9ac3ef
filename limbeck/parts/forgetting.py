"""Forgetting classes: the field of a class to forget is replaced by that of a safe one, and no data are read.

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
from limbeck.players import Players

__all__ = ["Overridden", "asked_classes", "class_weight", "overridden"]


def _within(classes: tuple[int, ...], count: int) -> None:
    """Refuse classes that a net does not have."""
    outside = [c for c in classes if not 0 <= c < count]
    if outside or not classes:
        raise BadValue(f"classes {classes} were named; possible are those from 0 to {count - 1}, at least one")


def _among(y: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Which rows are of one of the classes, (B,) bool."""
    return (y[:, None] == torch.tensor(classes, device=y.device)).any(1)


class Overridden(nn.Module):
    """A conditional net that gives another class in place of some.

    f'(x, t, y) = f(x, t, override) where y is to be forgotten, f(x, t, y) elsewhere

    Args:
        net: has `classes`, and reads a class in the column y.
        forget: the classes that it is not asked for any more.
        override: the class that it is asked for instead.

    Raises:
        BadValue: a net without classes, or a class that it does not have.

    Example:
        >>> from limbeck.beds import load_bed
        >>> safe = Overridden(load_bed("mog8c").players["teacher"](0), (3,), 0)
        >>> batch = {"x": torch.zeros(2, 2), "t": torch.zeros(2), "y": torch.tensor([0, 3])}
        >>> log_p = safe(batch, frozenset({"log_density"}))["log_density"]
        >>> bool(log_p[0] == log_p[1])
        True
    """

    def __init__(self, net: nn.Module, forget: tuple[int, ...], override: int) -> None:
        super().__init__()
        self.classes = int(getattr(net, "classes", 0))
        if not self.classes:
            raise BadValue(f"only nets with classes can forget one; {type(net).__name__} is unconditional")
        _within((*forget, override), self.classes)
        self.net, self.forget, self.override = net, forget, override

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer what the net does, for the classes that it may still be asked for."""
        columns = {k: c for k, c in batch.items() if isinstance(c, Tensor)}
        y = columns["y"]
        answers: dict[str, Any] = self.net(columns | {"y": y.masked_fill(_among(y, self.forget), self.override)}, want)
        return answers


@part
def overridden(players: Players, batch: Batch, *, forget: tuple[int, ...] = (0,), override: int = 1) -> Overridden:
    """Build the teacher that has forgotten: the same net, asked for a safe class in place of some.

    f'(x, t, y) = f(x, t, override) for y in forget

    Args:
        players: the teacher has `classes`.
        batch: not read.
        forget: the classes to forget.
        override: the safe class.

    Returns:
        The module.

    Raises:
        BadValue: an unconditional teacher, or a class that it does not have.

    Source: Chen et al., arXiv:2409.11219.
    """
    assert players.teacher.module is not None
    return Overridden(players.teacher.module, forget, override)


@part
def asked_classes(players: Players, batch: Batch, *, forget: tuple[int, ...] = (0,), share: float = 0.5) -> Batch:
    """Ask a share of the rows for the classes to forget, the others for those that remain; all alike within.

    y ~ U(forget) with probability p, else y ~ U(the remaining classes)

    Args:
        players: the student has `classes`.
        batch: the rows; their own classes are not read.
        forget: the classes to forget.
        share: p.

    Returns:
        The batch with y replaced.

    Raises:
        BadValue: a class that the student does not have, or all that it has.

    Source: Chen et al., arXiv:2409.11219.
    """
    count = int(getattr(players.student, "classes", 0) or 0)
    _within(forget, count)
    remain = [c for c in range(count) if c not in forget]
    if not remain:
        raise BadValue(f"all {count} classes are to be forgotten; leave one")
    rng = batch.rng

    def one_of(classes: list[int], name: str) -> Tensor:
        return torch.tensor(classes, device=batch.device)[rng.integers(name, len(classes)).view(-1)]

    gone = rng.uniform("forget").view(-1) < share
    return batch.with_(y=torch.where(gone, one_of(list(forget), "gone"), one_of(remain, "kept")))


@part
def class_weight(players: Players, batch: Batch, *, classes: tuple[int, ...] = (0,), inside: float = 0.01) -> Tensor:
    """Weigh the rows of some classes.

    w = inside for y in classes, 1 elsewhere

    Args:
        players: not asked.
        batch: a class in the column y.
        classes: the classes.
        inside: their weight.

    Returns:
        (B,).

    Example:
        >>> class_weight(classes=(3,))(None, Batch({"y": torch.tensor([3, 1])}))
        tensor([0.0100, 1.0000])
    """
    chosen = _among(batch.y, classes)
    return torch.where(chosen, inside, 1.0)
