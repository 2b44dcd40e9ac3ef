"""Flow matching: a net learns the velocity of a path from data, with no teacher and no simulation.

The path of the method is a state player, `path`: what is drawn in training and how a sample is taken follow it. The net
is asked on the rectified-flow path all the same, since of every Gaussian path x = a x0 + s e the velocity is

    V(x, u) = (a + s) t'(u) v(x / (a + s), t) + (a' + s') / (a + s) x,    t = s / (a + s)

with v the velocity of rectified flow. So another path is another density of levels and another weight, no other net.

Shapes: B rows; a datum has any shape; times and levels (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.distance import turned
from limbeck.parts.path import Path
from limbeck.parts.solver import EULER, even, solve
from limbeck.parts.states import like
from limbeck.players import Player, Players
from limbeck.roles import frozen

__all__ = [
    "OwnPath",
    "diffusion_path",
    "flow_matching",
    "huber_matching",
    "path_sample",
    "path_states",
    "path_weight",
    "straight_path",
    "vp_linear",
]


# -- paths ------------------------------------------------------------------------------------------------------------


class OwnPath(nn.Module):
    """The path of a method, as a player without weights.

    Args:
        path: a(u), s(u), with u = 0 at the data and 1 at the noise.

    Example:
        >>> from limbeck.parts.path import RF
        >>> OwnPath(RF).level(torch.tensor([0.25])), OwnPath(RF).pace(torch.tensor([0.25]))
        (tensor([0.2500]), tensor([1.]))
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def level(self, u: Tensor) -> Tensor:
        """The level of rectified flow with the same ratio of noise to signal, s / (a + s)."""
        a, s = self.path.alpha(u), self.path.sigma(u)
        return s / (a + s)

    def pace(self, u: Tensor) -> Tensor:
        """How an error of v shows in V: (a + s) t'(u) = (a s' - a' s) / (a + s)."""
        a, s = self.path.alpha(u), self.path.sigma(u)
        da, ds = self.path.slopes(u)
        return (a * ds - da * s) / (a + s)


@part
def straight_path(players: Players, batch: Batch, *, sigma_min: float = 1e-5) -> OwnPath:
    """Build the path of optimal transport between noise and a datum: points move on straight lines at constant speed.

    x_u = (1 - u) x0 + (sigma_min + (1 - sigma_min) u) e

    Args:
        players: not asked.
        batch: not asked.
        sigma_min: the noise that is left at the datum.

    Returns:
        The module.

    Raises:
        BadValue: sigma_min outside [0, 1).

    Source: Lipman et al., arXiv:2210.02747, the path of optimal transport, with time reversed.
    """
    if not 0 <= sigma_min < 1:
        raise BadValue(f"sigma_min must lie in [0, 1), got {sigma_min}")

    def time(r: Tensor) -> Tensor:
        return (r - sigma_min) / (1 - sigma_min + r)

    return OwnPath(Path(lambda u: 1 - u, lambda u: sigma_min + (1 - sigma_min) * u, time))


def vp_linear(beta_min: float, beta_max: float) -> Path:
    """The variance-preserving path of a noise rate that rises linearly.

    a = exp(-T / 2), s = sqrt(1 - exp(-T)), T(u) = beta_min u + (beta_max - beta_min) u^2 / 2

    Args:
        beta_min: the rate at the data, above 0.
        beta_max: the rate at the noise, at least beta_min.

    Returns:
        The path.

    Raises:
        BadValue: a rate that is not positive, or that falls.

    Example:
        >>> vp_linear(0.1, 20.0).alpha(torch.ones(1))
        tensor([0.0066])

    Source: Song et al., arXiv:2011.13456, the variance-preserving SDE.
    """
    if not 0 < beta_min <= beta_max:
        raise BadValue(f"the noise rate must be positive and not fall, got {beta_min:g} to {beta_max:g}")
    rise = beta_max - beta_min

    def spent(u: Tensor) -> Tensor:
        return beta_min * u + rise * u.square() / 2

    def time(r: Tensor) -> Tensor:
        spent_r = torch.log1p(r.square())
        return 2 * spent_r / ((beta_min**2 + 2 * rise * spent_r).sqrt() + beta_min)  # the root, also where rise = 0

    return Path(lambda u: (-spent(u) / 2).exp(), lambda u: (-torch.expm1(-spent(u))).sqrt(), time)


@part
def diffusion_path(players: Players, batch: Batch, *, beta_min: float = 0.1, beta_max: float = 20.0) -> OwnPath:
    """Build the path of diffusion: the variance stays, and points move on curves, mostly early and late.

    a = exp(-T / 2), s = sqrt(1 - exp(-T)), T(u) = beta_min u + (beta_max - beta_min) u^2 / 2

    Args:
        players: not asked.
        batch: not asked.
        beta_min: the rate of noise at the data.
        beta_max: the rate at the noise, above beta_min.

    Returns:
        The module.

    Source: Lipman et al., arXiv:2210.02747, the path of diffusion, with the rates of Song et al., arXiv:2011.13456.
    """
    return OwnPath(vp_linear(beta_min, beta_max))


# -- training ---------------------------------------------------------------------------------------------------------


@part
def path_states(players: Players, batch: Batch, *, least: float = 1e-5) -> Batch:
    """Noised data at even times of the method's path, and the slope of the line through each point.

    u ~ U(least, 1), t = s / (a + s);  x = (1 - t) x0 + t e, velocity = e - x0, pace = (a s' - a' s) / (a + s)

    Args:
        players: `path` has a(u) and s(u).
        batch: rows whose column x is a datum.
        least: the earliest time; the velocity of a diffusion path is infinite at 0.

    Returns:
        The batch with the state in x, its level in t, `velocity` and `pace`, and the datum in `real`.

    Raises:
        UnknownName: there is no player `path`.

    Source: Lipman et al., arXiv:2210.02747, the loss on a Gaussian path.
    """
    x0, own = batch.x, players.path
    u = least + (1 - least) * batch.rng.uniform("level").view(-1).to(x0.dtype)
    t, e = own.level(u), batch.rng.normal("noise", *x0.shape[1:]).to(x0.dtype)
    return batch.with_(x=(1 - like(t, x0)) * x0 + like(t, x0) * e, t=t, velocity=e - x0, pace=own.pace(u), real=x0)


@part
def path_weight(players: Players, batch: Batch) -> Tensor:
    """Weigh an error of rectified flow's velocity as one of the velocity of the method's path.

    w = ((a s' - a' s) / (a + s))^2

    Args:
        players: not asked.
        batch: states with their `pace`.

    Returns:
        (B,).

    Raises:
        UnknownName: the states are not those of `path_states`: there is no column `pace`.

    Example:
        >>> path_weight()(None, Batch({"pace": torch.tensor([2.0])}))
        tensor([4.])
    """
    return batch.pace.square()  # type: ignore[no-any-return]


def _residual(players: Players, batch: Batch) -> Tensor:
    """What the student's velocity is off, (B, d); of a flow map on its diagonal."""
    asked = batch.with_(s=batch.t) if "s" in batch else batch
    return (players.student(asked, "velocity") - batch.velocity).flatten(1)  # type: ignore[no-any-return]


@part
def flow_matching(players: Players, batch: Batch) -> Tensor:
    """The student's velocity is the slope of the line through the state; on average over lines, the flow's.

    |v(x_t, t) - (e - x0)|^2; of a flow map, v(x_t, t) = u(x_t, t, t)

    Args:
        players: the student answers "velocity" on columns x, t, and s if the batch has it.
        batch: states, with the slope in `velocity`.

    Returns:
        (B,).

    Raises:
        UnknownName: the batch has no column `velocity`.

    Source: Lipman et al., arXiv:2210.02747, conditional flow matching; Liu et al., arXiv:2209.03003.
    """
    return _residual(players, batch).square().sum(1)


@part
def huber_matching(players: Players, batch: Batch, *, c: float = 0.00054) -> Tensor:
    """Flow matching under a loss that is square near 0 and straight far off, so that lines that cross weigh less.

    (sqrt(|r|^2 + k^2) - k) / d, r = v(x_t, t) - (e - x0), k = c d, d coordinates

    Args:
        players: the student answers "velocity" on columns x, t.
        batch: states, with the slope in `velocity`.
        c: where it turns, in units of the data and for each coordinate.

    Returns:
        (B,).

    Raises:
        UnknownName: the batch has no column `velocity`.

    Source: Lee et al., arXiv:2405.20320, and its code, with c of Song and Dhariwal, arXiv:2310.14189.
    """
    r = _residual(players, batch)
    d = r.shape[1]
    return turned(r.square().sum(1), c * d) / d


# -- sampling ---------------------------------------------------------------------------------------------------------


def on_path(player: Player, own: OwnPath) -> Player:
    """A field of rectified flow as a field of another path, asked at its points and times.

    V(x, u) = (a + s) t'(u) v(x / (a + s), t) + (a' + s') / (a + s) x

    Args:
        player: answers "velocity" on columns x, t.
        own: the path.

    Returns:
        A player that answers "velocity" on columns x, t, which hold points and times of the path.
    """

    def answer(batch: Batch, want: frozenset[str]) -> dict[str, Tensor]:
        x, u = batch.x, batch.t
        scale = own.path.alpha(u) + own.path.sigma(u)
        v = player(batch.with_(x=x / like(scale, x), t=own.level(u)), "velocity")
        da, ds = own.path.slopes(u)
        return {"velocity": like(own.pace(u), x) * v + like((da + ds) / scale, x) * x}

    return Player(player.name, frozen(), answer=answer)


@part
def path_sample(players: Players, batch: Batch, *, solver: Expr = EULER, steps: int = 8) -> Tensor:
    """Sample the student by a solver of the method's path, at even times of it.

    x(0), from x(1) = s(1) z, by dx/du = V(x, u)

    Args:
        players: the student answers "velocity" on columns x, t; `path` has a(u) and s(u).
        batch: rows whose column x has the shape of a datum.
        solver: a solver part that asks for "velocity".
        steps: how many.

    Returns:
        (B, ...) samples.

    Raises:
        UnknownName: there is no player `path`.

    Source: Lipman et al., arXiv:2210.02747, the comparison at few evaluations.
    """
    own = players.path.module
    assert isinstance(own, OwnPath)
    z = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
    start = own.path.sigma(torch.ones(1, dtype=z.dtype, device=z.device)) * z
    return solve(on_path(players.student, own), batch, solver, start, even(steps))[-1]
