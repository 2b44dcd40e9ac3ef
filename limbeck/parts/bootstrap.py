"""Bootstrapping a trajectory from its first point: a student that sees the noise and a level, and no datum ever.

With the noise taken out, what is left of a state is its signal, y_t = (x_t - t e) / (1 - t): at t = 1 the teacher's
first guess, at t = 0 the datum. Along a trajectory of the teacher it moves towards what the teacher believes,

    y_s = k y_t + (1 - k) D_teacher(x_t, t),  x_t = (1 - t) y_t + t e,  k = (1 - t) s / (t (1 - s)).

The student says y(e, s) = e - u(e, 1, s): in the terms of `limbeck.parts.flowmap`, all its jumps start at the noise.

Shapes: B rows; a datum has any shape, d coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.flowmap import average_velocity
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = ["bootstrapped", "boundary", "noise_and_levels", "signal_step"]


@part
def noise_and_levels(players: Players, batch: Batch, *, gap: float = 0.04) -> Batch:
    """Noise, and two levels a fixed gap apart.

    x = e ~ N(0, I);  t ~ U(gap, 1), s = t - gap

    Args:
        players: not asked.
        batch: rows whose column x has the shape of a datum; its values are not used.
        gap: from one level to the other.

    Returns:
        The batch with the noise in x, and columns t and s.

    Raises:
        BadValue: a gap outside (0, 1).

    Example:
        >>> batch = noise_and_levels(gap=0.25)(None, Batch({"x": torch.full((9, 2), 7.0)}))
        >>> bool((batch.t - batch.s).sub(0.25).abs().max() < 1e-6), bool(batch.x.max() < 7)
        (True, True)

    Source: Gu et al., arXiv:2306.05544, the training of the student.
    """
    if not 0 < gap < 1:
        raise BadValue(f"noise_and_levels.gap must lie between 0 and 1, got {gap}")
    noise = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
    s = (1 - gap) * batch.rng.uniform("level").view(-1).to(noise.dtype)
    return batch.with_(x=noise, t=s + gap, s=s)


def signal_step(y: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """One step of DDIM for the signal: it moves towards the datum that is believed in.

    y_s = k y_t + (1 - k) x0,  k = (1 - t) s / (t (1 - s))

    Args:
        y: (B, ...) signals at t.
        x0: (B, ...) what is believed there.
        t: (B,) levels, above 0.
        s: (B,) levels to reach, below 1.

    Returns:
        (B, ...).

    Example:
        >>> signal_step(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.5]), torch.tensor([0.2]))
        tensor([[0.2500, 0.2500]])

    Source: Gu et al., arXiv:2306.05544, the step of the signal ODE.
    """
    keep = like((1 - t) * s / (t * (1 - s)), y)
    return keep * y + (1 - keep) * x0


def _signal(players: Players, batch: Batch, s: Tensor) -> Tensor:
    """y(e, s) as the student has it."""
    return batch.x - average_velocity(players, batch, batch.x, torch.ones_like(s), s)  # type: ignore[no-any-return]


def _mean_square(residual: Tensor) -> Tensor:
    return residual.square().flatten(1).mean(1)


@part
def bootstrapped(players: Players, batch: Batch) -> Tensor:
    """The signal at a level is the student's own at the level before, moved by one step of the teacher.

    |y_student(e, s) - sg[k y + (1 - k) D_teacher((1 - t) y + t e, t)]|^2 / (d (t - s)^2), y = y_student(e, t)

    Args:
        players: the student answers "velocity" on columns x, t, s; the teacher "x0" on x, t.
        batch: the noise in x, and levels s < t.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `teacher`.

    Source: Gu et al., arXiv:2306.05544, the bootstrapping loss, with the weight 1.
    """
    t, s = batch.t, batch.s
    with torch.no_grad():
        y = _signal(players, batch, t)
        state = like(1 - t, y) * y + like(t, y) * batch.x
        target = signal_step(y, players.teacher(batch.without("s").with_(x=state, t=t), "x0"), t, s)
    return _mean_square(_signal(players, batch, s) - target) / (t - s).square()


@part
def boundary(players: Players, batch: Batch) -> Tensor:
    """Where trajectories start, the signal is the teacher's first guess.

    |y_student(e, 1) - D_teacher(e, 1)|^2 / d

    Args:
        players: the student answers "velocity" on columns x, t, s; the teacher "x0" on x, t.
        batch: rows whose column x has the shape of a datum; the noise is drawn afresh.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `teacher`.

    Source: Gu et al., arXiv:2306.05544, the boundary loss.
    """
    noise = batch.rng.normal("boundary", *batch.x.shape[1:]).to(batch.x.dtype)
    ones = torch.ones(batch.size, dtype=noise.dtype, device=noise.device)
    start = batch.without("s").with_(x=noise, t=ones)
    return _mean_square(_signal(players, start, ones) - players.teacher(start, "x0"))
