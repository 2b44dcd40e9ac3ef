"""A few-step student steered by its teacher while it samples: nothing is learned.

Each of the first predictions of the student is noised again, and drawn a little towards what the teacher believes the
datum to be there. That is one step down the score distillation loss, with the prediction as the start; the student then
goes on as it would have.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.states import few_step, like
from limbeck.players import Players

__all__ = ["sampled_rows", "steered"]

ONE_STEP = few_step()


@part
def steered(
    players: Players,
    batch: Batch,
    *,
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25),
    share: float = 0.2,
    first: int = 1,
) -> Tensor:
    """Sample the student in few steps, its first predictions drawn towards the teacher's.

    x0 <- (1 - l) x0_student(x, t) + l x0_teacher((1 - s) x0 + s e, s), s the next level, or t where that is 0

    Args:
        players: student and teacher answer "x0" on columns x, t.
        batch: rows whose column x has the shape of a datum.
        times: falling levels from 1.
        share: l; 0 gives the student's own samples, bit for bit.
        first: how many of the steps are steered, one evaluation of the teacher each.

    Returns:
        (B, ...) samples.

    Raises:
        BadValue: a share outside [0, 1].

    Source: Park et al., arXiv:2412.08871, teacher guidance at the next level.
    """
    if not 0 <= share <= 1:
        raise BadValue(f"steered.share must lie in [0, 1], got {share}")
    shape = batch.x.shape[1:]
    x = batch.rng.normal("z", *shape).to(batch.x.dtype)
    for i, (t, nearer) in enumerate(pairwise((*times, 0.0))):
        x0 = players.student(batch.with_(x=x, t=_level(batch, x, t)), "x0")
        if i < first and share:
            x0 = _towards(players, batch, x0, nearer or t, share, i)
        noise = batch.rng.fold(i).normal("again", *shape).to(x0.dtype)
        x = (1 - nearer) * x0 + nearer * noise
    return x


def _level(batch: Batch, x: Tensor, t: float) -> Tensor:
    return torch.full((batch.size,), t, dtype=x.dtype, device=x.device)


def _towards(players: Players, batch: Batch, x0: Tensor, s: float, share: float, step: int) -> Tensor:
    """A prediction, drawn towards what the teacher makes of it at level s."""
    e = batch.rng.fold("steer", step).normal("noise", *x0.shape[1:]).to(x0.dtype)
    level = _level(batch, x0, s)
    seen = (1 - like(level, x0)) * x0 + like(level, x0) * e
    return (1 - share) * x0 + share * players.teacher(batch.with_(x=seen, t=level), "x0")


@part
def sampled_rows(players: Players, batch: Batch, *, sampler: Expr = ONE_STEP) -> Batch:
    """Rows with samples in place of data: a part of a *make* stage.

    x = sampler(noise)

    Args:
        players: whom the sampler asks.
        batch: rows whose column x has the shape of a datum; their other columns (a class `y`) go along.
        sampler: a sampler part.

    Returns:
        The batch with the samples in x.
    """
    return batch.with_(x=sampler(players, batch))  # type: ignore[operator]
