"""A generator held fast at points whose images are known, whatever else it learns.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.players import Players

__all__ = ["anchored"]


@part
def anchored(players: Players, batch: Batch) -> Tensor:
    """Keep the student at the pairs of noise and datum that the teacher joins, beside a loss on other noise.

    mean(x0_student(e, 1) - real)^2

    Args:
        players: the student answers "x0".
        batch: pairs whose noise is in `e` and whose datum is in `real`; x and t may be any states.

    Returns:
        (B,).

    Raises:
        UnknownName: the rows are no pairs: there is no column e, or none `real`.

    Example:
        >>> from types import SimpleNamespace
        >>> double = SimpleNamespace(student=lambda batch, want: 2 * batch.x)
        >>> anchored()(double, Batch({"x": torch.zeros(1, 1), "e": torch.ones(1, 1), "real": torch.ones(1, 1)}))
        tensor([1.])

    Source: Yin et al., arXiv:2311.18828, the regression loss, with the square for the perceptual distance.
    """
    there = batch.with_(x=batch.e, t=torch.ones(batch.size, dtype=batch.e.dtype, device=batch.device))
    return (players.student(there, "x0") - batch.real).square().flatten(1).mean(1)
