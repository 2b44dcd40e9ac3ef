"""Continuous-time consistency: along a trajectory of the teacher, what the student takes for its end must not move.

On the trigonometric path x = cos(u) x0 + d sin(u) e, with d the standard deviation of the data, the teacher's field is
dx/du = d F, where F is what a net of that path predicts; f(x, u) = cos(u) x - d sin(u) F(x, u) is a consistency
function. A student of any path and head is one exactly: it is asked at the same ratio of noise to signal, and F is made
of its data and noise. So nothing is trained anew, and f is the student's "x0".

Its change along the trajectory is the tangent

    g = cos(u) df/du = -cos^2(u) (d F - dx/du) - (cos(u) sin(u) x + d dF),

where dF is the derivative of F along cos(u) sin(u) (dx/du, 1): multiplied before the net is asked, it stays bounded.

Shapes: B rows; a datum has any shape, N coordinates; states on column x at level t, as everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch, Moment
from limbeck.part import Expr, part
from limbeck.parts.held import held_jvp
from limbeck.parts.levels import EDM_LEVELS
from limbeck.parts.path import Path, from_rectified, to_rectified
from limbeck.parts.states import like, noised
from limbeck.players import Player, Players

__all__ = [
    "apart",
    "consistency_tangent",
    "continuous_consistency",
    "coordinates",
    "inverse_noise",
    "level_states",
    "level_weighed",
    "risen",
    "trig",
    "trig_velocity",
]


def trig(sigma_data: float) -> Path:
    """The trigonometric path of data with standard deviation d.

    a = cos(u), s = d sin(u), u = atan(r / d)

    Example:
        >>> path = trig(0.5)
        >>> path.time(torch.tensor([0.5])), path.sigma(torch.tensor([torch.pi / 2]))
        (tensor([0.7854]), tensor([0.5000]))

    Source: Lu and Song, arXiv:2410.11081, TrigFlow.
    """
    return Path(torch.cos, lambda u: sigma_data * torch.sin(u), lambda r: torch.atan(r / sigma_data))


def trig_velocity(player: Player, batch: Batch, x: Tensor, u: Tensor, sigma_data: float) -> Tensor:
    """What a player of any path would predict on the trigonometric one.

    d F(x, u) = d cos(u) e - sin(u) x0, with e and x0 asked at x / (a + s), t = s / (a + s)

    Args:
        player: answers "x0" and "eps" on columns x, t.
        batch: the rows, whose other columns (a class `y`) go along.
        x: (B, ...) on the trigonometric path.
        u: (B,) in [0, pi / 2].
        sigma_data: d.

    Returns:
        (B, ...).

    Source: Chen et al., arXiv:2503.09641, the change from a flow model to TrigFlow.
    """
    there, t = to_rectified(trig(sigma_data), x, u)
    x0, eps = player(batch.with_(x=there, t=t), "x0", "eps")
    return like(sigma_data * torch.cos(u), x) * eps - like(torch.sin(u), x) * x0


def consistency_tangent(
    players: Players, batch: Batch, *, sigma_data: float, warm: float, eased: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The change of the student's consistency function along the teacher's trajectory.

    g = -cos^2(u) (d F - dx/du) - r (cos(u) sin(u) x + d dF); eased,
    g = -cos(u) sqrt(1 - r^2 sin^2(u)) (d F - dx/du) - r cos(u) sin(u) x - d dF

    Args:
        players: student and teacher answer "x0" and "eps" on columns x, t.
        batch: the states, columns x and t.
        sigma_data: d.
        warm: r, from 0 to 1: how much of what may be unstable is in already.
        eased: whether the first term starts at its full weight cos(u) and falls to cos^2(u) as r rises, with all of the
            derivative from the start.

    Returns:
        The point (B, ...) and u (B,) on the trigonometric path, and g (B, ...); none of them with gradient.

    Raises:
        UnknownName: there is no player `teacher`.

    Source: Lu and Song, arXiv:2410.11081, section 5.1; eased: the code of Zheng et al., arXiv:2510.08431, where dF
        counts in full from the start.
    """
    with torch.no_grad():
        x, u = from_rectified(trig(sigma_data), batch.x, batch.t)
        cos, sin = like(torch.cos(u), x), like(torch.sin(u), x)
        field = trig_velocity(players.teacher, batch, x, u, sigma_data)

        def student(x: Tensor, u: Tensor) -> Tensor:
            return trig_velocity(players.student, batch, x, u, sigma_data)

        velocity, slope = held_jvp(student, (x, u), (cos * sin * field, torch.cos(u) * torch.sin(u)))
        share = cos * (1 - warm**2 * sin.square()).sqrt() if eased else cos.square()
        return x, u, -share * (velocity - field) - warm * cos * sin * x - (slope if eased else warm * slope)


@part
def risen(at: Moment, *, share: float = 0.01) -> float:
    """A rise from 0 to 1 over the first share of the stage.

    min(1, progress / share)

    Args:
        at: the place in the stage.
        share: the part of the stage that it takes; 0 for 1 from the start.

    Returns:
        The value.

    Example:
        >>> [risen(share=0.5)(Moment(step, 5)) for step in range(4)]
        [0.0, 0.5, 1.0, 1.0]
    """
    return min(1.0, at.progress / share) if share else 1.0


@part
def continuous_consistency(
    players: Players,
    batch: Batch,
    *,
    sigma_data: float = 0.5,
    warm: float = 1.0,
    soft: float = 0.1,
    eased: bool = False,
) -> Tensor:
    """Continuous-time consistency: the student moves its prediction by the tangent, brought to a length below 1.

    |F - sg[F + h]|^2, h = g / (|g| + c), summed over coordinates; F on the trigonometric path, in units of the data

    Args:
        players: student and teacher answer "x0" and "eps" on columns x, t; the student's net is differentiated.
        batch: the states, columns x and t.
        sigma_data: the standard deviation d of the data.
        warm: r, the share of the tangent's second term; a schedule, from 0 to 1.
        soft: c; the larger, the more short tangents count less. Infinite is without normalisation, but for a factor.
        eased: whether the first term starts at full weight (see `consistency_tangent`).

    Returns:
        (B,); its value is near 1 whatever the error, its gradient is what counts.

    Raises:
        UnknownName: there is no player `teacher`.

    Source: Lu and Song, arXiv:2410.11081, the training of sCM.
    """
    x, u, g = consistency_tangent(players, batch, sigma_data=sigma_data, warm=warm, eased=eased)
    g = g / (like(g.flatten(1).norm(dim=1), g) + soft)
    velocity = trig_velocity(players.student, batch, x, u, sigma_data) / sigma_data
    return (velocity - (velocity + g).detach()).square().flatten(1).sum(1)


# -- states and weights -----------------------------------------------------------------------------------------------


@part
def level_states(players: Players, batch: Batch, *, levels: Expr = EDM_LEVELS) -> Batch:
    """Data at random levels.

    x = (1 - t) x0 + t e

    Args:
        players: the players, for levels that depend on them.
        batch: rows whose column x is a datum.
        levels: a level part.

    Returns:
        The batch with the state in x, its level in t, and the datum in `real`.

    Example:
        >>> from limbeck.parts.levels import logit_normal_levels
        >>> states = level_states(levels=logit_normal_levels(mean=-1.2, std=0.0))(None, Batch({"x": torch.zeros(2, 3)}))
        >>> states.t, states.real.shape
        (tensor([0.2315, 0.2315]), torch.Size([2, 3]))
    """
    return noised(players, batch, batch.x, levels, "states").with_(real=batch.x)


@part
def coordinates(players: Players, batch: Batch) -> Tensor:
    """The weight that makes a mean over coordinates their sum.

    N

    Args:
        players: not asked.
        batch: rows whose column x has the shape of a datum.

    Returns:
        (B,).

    Example:
        >>> coordinates()(None, Batch({"x": torch.zeros(1, 3, 4)}))
        tensor([12.])
    """
    return torch.full((batch.size,), float(batch.x[0].numel()), dtype=batch.x.dtype, device=batch.device)


@part
def inverse_noise(players: Players, batch: Batch) -> Tensor:
    """The weight of a state by its noise, for a mean over coordinates.

    1 / (N sigma), sigma = t / (1 - t)

    Args:
        players: not asked.
        batch: the states, columns x and t in (0, 1].

    Returns:
        (B,).

    Example:
        >>> inverse_noise()(None, Batch({"x": torch.zeros(1, 2), "t": torch.tensor([0.2])}))
        tensor([2.])

    Source: Chen et al., arXiv:2503.09641, in its code.
    """
    return (1 - batch.t) / batch.t / batch.x[0].numel()


TANGENT, STATES = continuous_consistency(), level_states()


@part
def level_weighed(players: Players, batch: Batch, *, loss: Expr = TANGENT, prior: Expr | None = None) -> Tensor:
    """A loss by a learned weight of its level, so that no level drowns the others.

    e^-w(t) p(t) L + w(t)

    Args:
        players: `weights` answers "log_weight" on columns t, s, here with s = 0; the loss says what it asks.
        batch: the states.
        loss: a loss part with one loss a row.
        prior: a weight part p; none for 1.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `weights`.

    Source: Karras et al., arXiv:2312.02696, equation 21.
    """
    found = loss(players, batch)  # type: ignore[operator]
    found = found if prior is None else prior(players, batch) * found  # type: ignore[operator]
    w = players.weights(batch.with_(s=torch.zeros_like(batch.t)), "log_weight")
    return (-w).exp() * found + w


@part
def apart(players: Players, batch: Batch, *, states: Expr = STATES, loss: Expr = TANGENT) -> Tensor:
    """A loss on states of its own, made of the same data as those of the phase.

    L(states(x_real))

    Args:
        players: whom states and loss ask.
        batch: the states of the phase, with the datum in `real`.
        states: a batch part.
        loss: a loss part with one loss a row.

    Returns:
        (B,).

    Raises:
        UnknownName: the batch has no column `real`.

    Example:
        >>> from limbeck.parts.states import noise_states
        >>> norm = part(lambda players, batch: batch.t)()
        >>> apart(states=noise_states(), loss=norm)(None, Batch({"real": torch.zeros(2, 3)}))
        tensor([1., 1.])
    """
    return loss(players, states(players, batch.with_(x=batch.real)))  # type: ignore[operator]
