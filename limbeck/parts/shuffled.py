"""What belongs to one row handed to another: columns, answers and marks, as many and as large, in no order.

Controls are made of these. Whatever a recipe still gains is not owed to what it says it learns from.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.classification import kl
from limbeck.parts.curvature import forward_kl
from limbeck.players import Player, Players
from limbeck.rng import Rng, derive
from limbeck.roles import frozen

__all__ = ["misled", "shuffled", "tossed", "weighed_as_another"]

KL, RATIO = kl(), forward_kl()


def _order(rng: Rng) -> Tensor:
    """A random order of the rows, (B,); those of one seat stay among themselves."""
    return (rng.seat + rng.fold("shuffled").uniform("order").double()).argsort()


def _taken(column: Tensor | list[Any], order_B: Tensor) -> Tensor | list[Any]:
    return column[order_B] if isinstance(column, Tensor) else [column[i] for i in order_B.tolist()]


@part(coupled=True)  # type: ignore[untyped-decorator]
def shuffled(players: Players, batch: Batch, *, columns: tuple[str, ...] = ("x",)) -> Batch:
    """Hand some columns to other rows of the batch, together, and leave the rest.

    c_i <- c_pi(i), pi a random order of the rows

    Args:
        players: not asked.
        batch: the rows.
        columns: names of those that change rows.

    Returns:
        The batch with these columns replaced.

    Raises:
        UnknownName: the batch has no such column.

    Example:
        >>> import torch
        >>> batch = shuffled(columns=("y",))(None, Batch({"x": torch.arange(9), "y": torch.arange(9)}))
        >>> batch.x.equal(batch.y), batch.y.sort().values.equal(batch.x)
        (False, True)
    """
    order_B = _order(batch.rng)
    return batch.with_(**{name: _taken(batch[name], order_B) for name in columns})


@part(coupled=True)  # type: ignore[untyped-decorator]
def misled(players: Players, batch: Batch, *, loss: Expr = KL) -> Tensor:
    """A loss whose teacher answers every row with what it says of another.

    L(student(x_i), teacher(x_pi(i))), pi a random order of the rows

    Args:
        players: those of the loss; the answers of the teacher are tensors.
        batch: what the loss reads.
        loss: a loss of rows that asks the teacher about the rows of the batch.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `teacher`.
    """
    teacher, order_B = players.teacher, _order(batch.rng)

    def answer(asked: Batch, want: frozenset[str]) -> dict[str, Any]:
        return {name: teacher(asked, name)[order_B] for name in want}

    swapped = Player("misled", frozen(), answer=answer)
    return loss(players.replaced(teacher=swapped), batch)  # type: ignore[no-any-return, operator]


@part
def tossed(completion: str, row: Mapping[str, Any]) -> float:
    """Mark a completion by the toss of a coin, the same for the same words: a verifier that knows nothing.

    1 or 0, equally likely over texts

    Args:
        completion: what was said.
        row: not read.

    Example:
        >>> [tossed()(said, {}) for said in ("1", "2", "3")]
        [0.0, 1.0, 1.0]
    """
    return float(derive("tossed", completion) >> 62)


@part(coupled=True)  # type: ignore[untyped-decorator]
def weighed_as_another(r: Tensor, *, of: Expr = RATIO) -> Tensor:
    """Weigh every sample by the ratio of the one before it in the batch, which is independent of it.

    h(r_{i-1}), the first as the last

    Args:
        r: (B,) ratios.
        of: h, a part of `limbeck.parts.curvature`.

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> weighed_as_another()(torch.tensor([1.0, 2.0, 3.0]))
        tensor([3., 1., 2.])
    """
    return of(r.roll(1, 0))  # type: ignore[no-any-return, operator]
