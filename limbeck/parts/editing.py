"""Edits of data along conditional fields: from the class that they have, column `y`, to that which is wanted, `target`.

Nothing is learned. The student is a plain conditional net, in which y = K, its number of classes, is no class; guidance
is done here, for an edit needs one scale for each of the two classes.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.guidance import guided
from limbeck.parts.solver import euler, even
from limbeck.players import Player, Players
from limbeck.roles import frozen

__all__ = ["conditioned", "flow_edit", "noise_edit", "retargeted"]

EULER, FIFTY = euler(), even(50)


def conditioned(player: Player, y: Tensor | None, scale: float) -> Players:
    """The student as solvers see it, bound to a class and a scale of guidance.

    Args:
        player: answers "velocity" on columns x, t, y.
        y: (B,) the class; None for nets without classes.
        scale: of guidance; 1 for none.

    Returns:
        Players of whom `student` answers "velocity".

    Example:
        >>> up = Player("net", frozen(), answer=lambda b, want: {"velocity": torch.ones_like(b.x)})
        >>> bound = conditioned(up, None, 1.0)
        >>> bound.student(Batch({"x": torch.zeros(1, 2), "t": torch.zeros(1)}), "velocity")
        tensor([[1., 1.]])
    """

    def answer(batch: Batch, want: frozenset[str]) -> dict[str, Any]:
        return {"velocity": guided(player, batch if y is None else batch.with_(y=y), "velocity", scale)}

    return Players({"student": Player("conditioned", frozen(), answer=answer)})


@part
def retargeted(players: Players, batch: Batch, *, shift: int = 1) -> Batch:
    """Ask for another class, the same for all rows of one.

    target = (y + k) mod K

    Args:
        players: the student has `classes`, K.
        batch: rows with a class in y.
        shift: k; a multiple of K asks for the class that is there.

    Returns:
        The batch with the column `target`.

    Raises:
        BadValue: an unconditional student.
    """
    classes = int(getattr(players.student, "classes", 0) or 0)
    if not classes:
        raise BadValue("only a student with classes can be asked for another one; this one is unconditional")
    return batch.with_(target=(batch.y + shift) % classes)


@part
def flow_edit(
    players: Players,
    batch: Batch,
    *,
    times: tuple[float, ...] = FIFTY,
    skip: int = 17,
    plain: int = 0,
    copies: int = 1,
    source: float = 3.5,
    target: float = 13.5,
) -> Batch:
    """Go from one class to the other along the difference between their fields; no inversion.

    z_s = z_t + (s - t) mean_n [v_tar(x_tar_t, t) - v_src(x_src_t, t)],  x_src_t = (1 - t) x + t n,
    x_tar_t = z_t + x_src_t - x, from z = x, with fresh noise n in every step

    Args:
        players: the student answers "velocity" on columns x, t, y.
        batch: data in x, their class in y, the class wanted in `target`.
        times: falling times from 1 to 0.
        skip: steps at the noisy end that are left out: the more, the more of the datum stays.
        plain: steps at the end that follow the target's field alone.
        copies: n_avg, draws of the noise in a step.
        source: the scale of guidance towards the class that is there.
        target: the scale of guidance towards the class wanted.

    Returns:
        The batch with the edited data in x and those given in `real`.

    Raises:
        BadValue: fewer than one copy, or more steps left out or plain than there are.
        UnknownName: the batch has no column y, or none `target`.

    Source: Kulikov et al., arXiv:2412.08629, and its code.
    """
    steps = len(times) - 1
    if copies < 1 or min(skip, plain) < 0 or skip + plain > steps:
        had = f"got {copies}, {skip}, {plain}"
        raise BadValue(f"flow_edit needs copies >= 1, skip and plain >= 0 and skip + plain <= {steps} steps, {had}")
    x = z = batch.x
    for i, (t, s) in list(enumerate(pairwise(times)))[skip : steps - plain]:
        z = z + (s - t) * _difference(players.student, batch, z, (t, i), copies, source, target)
    if plain:
        at = steps - plain
        z = (z - x) + _noised(batch, x, times[at], at)
        rest = torch.tensor(times[at:], dtype=z.dtype, device=z.device).expand(batch.size, -1)
        z = EULER(conditioned(players.student, batch["target"], target), batch.with_(x=z, grid=rest))[-1]
    return batch.with_(x=z, real=x)


def _noised(batch: Batch, x: Tensor, t: float, *name: object) -> Tensor:
    """A datum at a level, (1 - t) x + t n, with the noise of that name."""
    return (1 - t) * x + t * batch.rng.fold("edit", *name).normal("n", *x.shape[1:]).to(x.dtype)


def _difference(
    player: Player, batch: Batch, z: Tensor, at: tuple[float, int], copies: int,
    source: float, target: float,
) -> Tensor:  # fmt: skip
    """What the two fields differ by, on the same noise, averaged over copies of it."""
    x, (t, step) = batch.x, at
    level = torch.full((batch.size,), t, dtype=x.dtype, device=x.device)
    total = torch.zeros_like(x)
    for k in range(copies):
        here = _noised(batch, x, t, step, k)
        there = guided(player, batch.with_(x=here + (z - x), t=level, y=batch["target"]), "velocity", target)
        total = total + there - guided(player, batch.with_(x=here, t=level, y=batch["y"]), "velocity", source)
    return total / copies


@part
def noise_edit(
    players: Players,
    batch: Batch,
    *,
    solver: Expr = EULER,
    times: tuple[float, ...] = even(25, 0.5),
    target: float = 1.0,
) -> Batch:
    """Noise a datum and sample from there towards the class wanted: the more noise, the less of the datum stays.

    x_t = (1 - t) x + t n at t = times[0], then along the target's field to 0

    Args:
        players: the student answers "velocity" on columns x, t, y.
        batch: data in x, the class wanted in `target`.
        solver: a solver part that asks for "velocity".
        times: falling times from the strength of the edit, inside (0, 1], to 0.
        target: the scale of guidance towards the class wanted.

    Returns:
        The batch with the edited data in x and those given in `real`.

    Raises:
        UnknownName: the batch has no column `target`.

    Source: Meng et al., arXiv:2108.01073, on this path.
    """
    x = batch.x
    grid = torch.tensor(times, dtype=x.dtype, device=x.device).expand(batch.size, -1)
    start = batch.with_(x=_noised(batch, x, times[0]), grid=grid)
    return batch.with_(x=solver(conditioned(players.student, batch["target"], target), start)[-1], real=x)  # type: ignore[operator]
