"""Shortcuts without a step size: two half steps of a flow teach it to go as far in one.

The net is an ordinary field, v(x, t), which becomes the mean velocity of the step that follows. What teaches are two
moving averages of the student: a fast one, which carries progress on from step to step, and a slow one, which holds it.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.parts.flowmap import jump
from limbeck.parts.states import like
from limbeck.players import Player, Players

__all__ = ["field_imitation", "halved_states", "shortcut"]


@part
def halved_states(players: Players, batch: Batch, *, longest: float = 0.5) -> Batch:
    """Noised data, and how far the step goes that is to be taken at once.

    x = (1 - t) x0 + t e, t ~ U(0, 1);  r = t - d, d = u min(t, h), u ~ U(0, 1)

    Args:
        players: not asked.
        batch: rows whose column x is a datum.
        longest: h, the longest step; a schedule lets it grow.

    Returns:
        The batch with the state in x, its level t and the level r that the step reaches.

    Example:
        >>> batch = halved_states(longest=0.1)(None, Batch({"x": torch.zeros(99, 2)}))
        >>> bool((batch.t > batch.r).all()), bool((batch.t - batch.r < 0.1).all())
        (True, True)

    Source: Cai et al., arXiv:2510.17858.
    """
    noise = batch.rng.normal("noise", *batch.x.shape[1:]).to(batch.x.dtype)
    t, u = batch.rng.uniform("levels", 2).to(noise.dtype).unbind(1)
    return batch.with_(x=(1 - like(t, noise)) * batch.x + like(t, noise) * noise, t=t, r=t - u * t.clamp(max=longest))


def _mean_velocity(player: Player, batch: Batch) -> Tensor:
    """The mean of a field over two half steps from t to r."""
    half = (batch.t + batch.r) / 2
    first = player(batch, "velocity")
    second = player(batch.with_(x=jump(batch.x, batch.t, half, first), t=half), "velocity")
    return (first + second) / 2  # type: ignore[no-any-return]


@part
def shortcut(players: Players, batch: Batch, *, hold: float = 0.5) -> Tensor:
    """The student's velocity is the mean of two half steps, taken by its fast and by its slow average.

    mean (v_student(x, t) - sg[(1 - a) m_fast + a m_slow])^2,  m = (v(x, t) + v(x', t')) / 2,
    t' = (t + r) / 2, x' = x + (t' - t) v(x, t)

    Args:
        players: student, fast and slow answer "velocity" on columns x, t.
        batch: the states, and the level r < t that the step reaches.
        hold: a, how much the slow average counts.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `fast`, or none `slow`.

    Example:
        >>> from types import SimpleNamespace
        >>> straight = SimpleNamespace(**dict.fromkeys(("student", "fast", "slow"), lambda b, w: torch.ones_like(b.x)))
        >>> shortcut()(straight, halved_states()(None, Batch({"x": torch.zeros(2, 3)})))
        tensor([0., 0.])

    Source: Cai et al., arXiv:2510.17858; the identity: Frans et al., arXiv:2410.12557.
    """
    with torch.no_grad():
        target = (1 - hold) * _mean_velocity(players.fast, batch) + hold * _mean_velocity(players.slow, batch)
    return (players.student(batch, "velocity") - target).square().flatten(1).mean(1)


@part
def field_imitation(players: Players, batch: Batch) -> Tensor:
    """The student takes over the teacher's field.

    mean (v_student(x, t) - v_teacher(x, t))^2

    Args:
        players: student and teacher answer "velocity" on columns x, t.
        batch: the states.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `teacher`.

    Source: Hinton et al., arXiv:1503.02531, for fields.
    """
    with torch.no_grad():
        target = players.teacher(batch, "velocity")
    return (players.student(batch, "velocity") - target).square().flatten(1).mean(1)
