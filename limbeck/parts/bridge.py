"""Bridges: diffusions that are pinned at a datum x0 and at its source x1, such as a sharp picture and its blurred one.

A process of any Gaussian path, a(u) x0 + s(u) e, that is known to end in x1 at u = T (Doob's h-transform) is

    x_u = A x0 + B x1 + C z,    A = a (1 - p), B = p a / a_T, C = s sqrt(1 - p), p = (s / a)^2 / (s_T / a_T)^2

What the source adds is known, and x_u - B x1 = A x0 + C z is the state of a Gaussian path again, of the data that go
with that source. So there is no second algebra of bridges: a net of a bridge, told the source, is a field of rectified
flow like any other, and is asked at the same ratio of noise to signal, R = C / A,

    t = C / (A + C),    x = (x_u - B x1) / (A + C),

from the data at t = 0 to the source, u = T, at t = 1. A net comes in by `limbeck.adapters.bridge.BridgeField`; the
source of a row stands in the column `source`, and every loss, solver and recipe for fields takes it from there:

    the posterior step of I2SB                 `sde()`
    the ODE of DDBM, the SDE of DDBM           `euler()`, `heun()`, `dpm_multistep()`; `sde()`
    samples of a source                        `ode_sample(solver=sde(), times=bridge_times(bridge, 10))`

As the noise s_T / a_T vanishes, C does, and the Brownian bridge becomes the straight line (1 - u) x0 + u x1: then the
source takes the place of the noise, and `limbeck.parts.pairs.straight_states` joins both without any bridge.

Shapes: B rows; a datum has any shape; times and levels (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue, Mismatch
from limbeck.part import Expr, part
from limbeck.parts.jvp import jvp
from limbeck.parts.pairs import independent_pairs, straight_states
from limbeck.parts.path import Head, Path
from limbeck.parts.solver import even
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = [
    "Bridge",
    "BridgeHead",
    "bridge_levels",
    "bridge_states",
    "bridge_times",
    "bridge_velocity_head",
    "brownian",
    "displacement_head",
    "from_bridge",
    "head_weight",
    "lifted",
    "skip_head",
    "state_spread",
    "to_bridge",
]


@dataclass(frozen=True)
class Bridge:
    """A Gaussian path that is known to end in the source. Its curves are functions of the level t of rectified flow.

    With k = (a_T / s_T)^2 and n = (1 - t)^2 + k t^2, at the time u where s / a = t / sqrt(n):
    A = a (1 - t)^2 / n,  B = a k t^2 / (a_T n),  C = a t (1 - t) / n; written so, nothing cancels at either end

    Args:
        path: of the process before it is pinned; its own time is u.
        end: T, the time of the source; 80 on the path of EDM, the last index of a table.

    Raises:
        BadValue: no noise at the end: then there is no bridge, only a line.

    Example:
        >>> t = torch.tensor([0.5])
        >>> [round(float(f(t)), 4) for f in (BROWNIAN.time, BROWNIAN.alpha, BROWNIAN.source, BROWNIAN.sigma)]
        [0.5, 0.5, 0.5, 0.5]

    Source: Zhou et al., "Denoising Diffusion Bridge Models", arXiv:2309.16948, the marginals given both ends.
    """

    path: Path
    end: float = 1.0

    def __post_init__(self) -> None:
        if not self.tip[1] > 0:
            raise BadValue(
                "a bridge needs noise, its path has none at the end; straight_states joins pairs by lines without any"
            )

    @cached_property
    def tip(self) -> tuple[float, float]:
        """a_T and s_T."""
        end = torch.tensor([self.end], dtype=torch.float64)
        return float(self.path.alpha(end)), float(self.path.sigma(end))

    @property
    def reduced(self) -> Path:
        """The Gaussian path that is left when what the source adds is taken away; its time is t."""
        return Path(self.alpha, self.sigma, lambda r: r / (1 + r))

    def time(self, t: Tensor) -> Tensor:
        """The time u of the bridge at a level of rectified flow, (B,)."""
        return self.path.time(t / self._n(t).sqrt())

    def level(self, u: Tensor) -> Tensor:
        """The level of rectified flow at a time of the bridge, s / (s + sqrt(a^2 - k s^2)), (B,)."""
        a, s = self.path.alpha(u.double()), self.path.sigma(u.double())
        root = (a.square() - (self.tip[0] / self.tip[1]) ** 2 * s.square()).clamp(min=0).sqrt()
        return (s / (s + root)).to(u.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        """A, how much of the datum there is, (B,)."""
        return self._scale(t) * (1 - t).square()

    def source(self, t: Tensor) -> Tensor:
        """B, how much of the source there is, (B,)."""
        return self._scale(t) * self.tip[0] / self.tip[1] ** 2 * t.square()

    def sigma(self, t: Tensor) -> Tensor:
        """C, how much noise there is, (B,)."""
        return self._scale(t) * t * (1 - t)

    def _n(self, t: Tensor) -> Tensor:
        return (1 - t).square() + (self.tip[0] / self.tip[1]) ** 2 * t.square()

    def _scale(self, t: Tensor) -> Tensor:
        return self.path.alpha(self.time(t)) / self._n(t)


def brownian(noise: float = 1.0) -> Bridge:
    """The bridge of a Brownian motion, whose time runs from 0 to 1.

    x_u = (1 - u) x0 + u x1 + g sqrt(u (1 - u)) z; rates that change in time are another density of u, no other bridge

    Args:
        noise: g, its standard deviation at u = 1 before it is pinned.

    Returns:
        The bridge.

    Raises:
        BadValue: no noise.

    Source: Liu et al., "I2SB", arXiv:2302.05872, equation 11.
    """
    return Bridge(
        Path(lambda u: torch.ones_like(u) + 0 * u, lambda u: noise * u.sqrt(), lambda r: (r / noise).square())
    )


BROWNIAN = brownian()


def to_bridge(bridge: Bridge, x: Tensor, t: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Carry a point of the rectified-flow path onto a bridge.

    x_u = (A + C) x + B x1, at the u of t

    Args:
        bridge: where to.
        x: (B, ...) on the rectified-flow path.
        t: (B,) its level.
        source: x1, (B, ...).

    Returns:
        The point of the bridge, and its time.

    Example:
        >>> to_bridge(BROWNIAN, torch.ones(1, 1), torch.tensor([0.5]), torch.ones(1, 1))
        (tensor([[1.5000]]), tensor([0.5000]))
    """
    return like(bridge.alpha(t) + bridge.sigma(t), x) * x + like(bridge.source(t), x) * source, bridge.time(t)


def from_bridge(bridge: Bridge, x: Tensor, u: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Carry a point of a bridge to the rectified-flow path; the inverse of `to_bridge`.

    (x_u - B x1) / (A + C), at the t of u

    Args:
        bridge: the bridge that x and u belong to.
        x: (B, ...).
        u: (B,) its time, before the end: there all points are the source.
        source: x1, (B, ...).

    Returns:
        The point of the rectified-flow path, and its level.

    Example:
        >>> from_bridge(BROWNIAN, torch.full((1, 1), 1.5), torch.tensor([0.5]), torch.ones(1, 1))
        (tensor([[1.]]), tensor([0.5000]))
    """
    t = bridge.level(u)
    return (x - like(bridge.source(t), x) * source) / like(bridge.alpha(t) + bridge.sigma(t), x), t


# -- heads ------------------------------------------------------------------------------------------------------------

BridgeHead = Callable[[Bridge, Tensor], tuple[Tensor, Tensor, Tensor]]
"""What a net of a bridge predicts, p x0 + o x1 + q z: the numbers p, o and q at a level."""


def lifted(head: Head) -> BridgeHead:
    """A head of Gaussian paths on a bridge: it does not speak of the source.

    p x0 + q z: `data_head`, `eps_head`, and `score_head`, the score of q(x_u | x0, x1), -z / C

    Args:
        head: of `limbeck.parts.path`.

    Returns:
        The head of a bridge.

    Example:
        >>> from limbeck.parts.path import data_head
        >>> lifted(data_head)(BROWNIAN, torch.tensor([0.5]))
        (tensor([1.]), tensor([0.]), tensor([0.]))
    """

    def on_bridge(bridge: Bridge, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, q = head(bridge.reduced, t)
        return p, torch.zeros_like(t), q

    return on_bridge


def displacement_head(bridge: Bridge, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A net that predicts how far the state is from the datum, in units of the noise before it was pinned.

    (x_u - x0) / s(u): p = (A - 1) / s, o = B / s, q = C / s

    Source: Liu et al., arXiv:2302.05872, equation 12.
    """
    s = bridge.path.sigma(bridge.time(t))
    return (bridge.alpha(t) - 1) / s, bridge.source(t) / s, bridge.sigma(t) / s


def bridge_velocity_head(bridge: Bridge, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A net that predicts the velocity of the bridge: p = dA/du, o = dB/du, q = dC/du; infinite at both ends.

    Its mean over the data is the drift of the ODE of DDBM, f x - g^2 (grad log q(x_u | x1) / 2 - grad log q(x1 | x_u))

    Source: Zhou et al., arXiv:2309.16948, theorem 1.
    """
    ones = torch.ones_like(t)
    curves = (bridge.alpha, bridge.source, bridge.sigma)
    pace = jvp(bridge.time, (t,), (ones,))[1]
    p, o, q = (jvp(curve, (t,), (ones,))[1] / pace for curve in curves)
    return p, o, q


def state_spread(bridge: Bridge, t: Tensor, data: float = 0.5, source: float = 0.5, shared: float = 0.125) -> Tensor:
    """The standard deviation of a bridge's states; one over it is the scale of a net's input.

    sqrt(A^2 v0 + B^2 v1 + 2 A B v01 + C^2)

    Args:
        bridge: the bridge.
        t: (B,) levels.
        data: sqrt(v0), of the data.
        source: sqrt(v1), of the sources.
        shared: v01, the covariance of both.

    Returns:
        (B,).

    Example:
        >>> state_spread(BROWNIAN, torch.tensor([1.0]), source=2.0)
        tensor([2.])

    Source: Zhou et al., arXiv:2309.16948, 1 / c_in of its preconditioning.
    """
    a, b, c = bridge.alpha(t), bridge.source(t), bridge.sigma(t)
    return (a.square() * data**2 + b.square() * source**2 + 2 * a * b * shared + c.square()).sqrt()


def skip_head(data: float = 0.5, source: float = 0.5, shared: float = 0.125) -> BridgeHead:
    """The raw output F of a net under the preconditioning of DDBM, x0 = c_skip x_u + c_out F.

    c_skip = (A v0 + B v01) / v, c_out = sqrt((B^2 (v0 v1 - v01^2) + v0 C^2) / v), v the variance of the state;
    p = (1 - c_skip A) / c_out, o = -c_skip B / c_out, q = -c_skip C / c_out

    Args:
        data: sqrt(v0), the standard deviation of the data.
        source: sqrt(v1), of the sources.
        shared: v01, the covariance of both.

    Returns:
        The head; `state_spread` has the scale of the input.

    Raises:
        BadValue: a covariance that is impossible with these deviations.

    Source: Zhou et al., arXiv:2309.16948, preconditioning.
    """
    rest = (data * source) ** 2 - shared**2
    if rest < 0:
        raise BadValue(f"a covariance of {shared} is impossible with deviations of {data} and {source}")

    def head(bridge: Bridge, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c = bridge.alpha(t), bridge.source(t), bridge.sigma(t)
        v = state_spread(bridge, t, data, source, shared).square()
        skip = (a * data**2 + b * shared) / v
        out = ((b.square() * rest + data**2 * c.square()) / v).sqrt()
        return (1 - skip * a) / out, -skip * b / out, -skip * c / out

    return head


# -- training and sampling --------------------------------------------------------------------------------------------


def _bridge(players: Players) -> Bridge:
    found = getattr(players.student, "bridge", None)
    if not isinstance(found, Bridge):
        raise BadValue("the student is no bridge; limbeck.adapters.bridge.BridgeField makes one of a net")
    return found


@part
def bridge_levels(players: Players, batch: Batch, *, low: float = 0.001, high: float = 0.999) -> Tensor:
    """Levels at even times of the student's bridge.

    u ~ T U(low, high), t = C / (A + C)

    Args:
        players: the student has a `bridge`.
        batch: the rows.
        low: the first time, as a share of T.
        high: the last time.

    Returns:
        (B,).

    Raises:
        BadValue: a student without a bridge.

    Source: Liu et al., arXiv:2302.05872, algorithm 1.
    """
    bridge = _bridge(players)
    return bridge.level(bridge.end * (low + (high - low) * batch.rng.uniform("level").view(-1)))


EVEN = bridge_levels()


@part
def bridge_states(players: Players, batch: Batch, *, levels: Expr = EVEN) -> Batch:
    """States between a datum and its source, as the student meets them, in coordinates of rectified flow.

    x = (1 - t) x0 + t z, which is A x0 + B x1 + C z on the bridge; velocity = z - x0

    Args:
        players: the student is a bridge, for its levels.
        batch: pairs: the datum in x and the source in `source`.
        levels: a level part, which gives t (B,): `bridge_levels`, or any density over the ratio of noise to signal.

    Returns:
        The batch with the state in x, its level in t, the slope in `velocity`, and the datum in `real`.

    Raises:
        UnknownName: the rows are no pairs: there is no column `source`.
        Mismatch: sources of another shape than the data.

    Source: Liu et al., arXiv:2302.05872, equation 11; Zhou et al., arXiv:2309.16948.
    """
    if batch.source.shape != batch.x.shape:
        raise Mismatch(
            f"a bridge joins two of a kind: data {tuple(batch.x.shape)}, sources {tuple(batch.source.shape)}"
        )
    return straight_states(levels=levels)(players, independent_pairs()(players, batch))  # type: ignore[no-any-return]


@part
def head_weight(players: Players, batch: Batch) -> Tensor:
    """Weigh an error of the datum as one of what the student's net predicts: `head_weight() * end_matching()`.

    w = (p - q A / C)^2: 1 / s(u)^2 for displacements, the loss of I2SB; 1 / c_out^2 for the raw output, that of DDBM

    Args:
        players: the student has a `bridge` and a `head`.
        batch: states, with their level in t.

    Returns:
        (B,).

    Raises:
        BadValue: a student without a bridge.

    Source: Liu et al., arXiv:2302.05872, equation 12; Zhou et al., arXiv:2309.16948, preconditioning.
    """
    bridge, t = _bridge(players), batch.t
    p, _, q = players.student.head(bridge, t)
    return (p - q * (1 - t) / t).square()  # type: ignore[no-any-return]


def bridge_times(bridge: Bridge, steps: int) -> tuple[float, ...]:
    """Levels at even times of a bridge, from the source to the datum: the `times` of a sampler.

    Args:
        bridge: the bridge.
        steps: how many.

    Returns:
        steps + 1 levels, from 1 to 0.

    Raises:
        BadValue: fewer than one step.

    Example:
        >>> bridge_times(BROWNIAN, 2)
        (1.0, 0.5, 0.0)

    Source: Liu et al., arXiv:2302.05872, algorithm 2.
    """
    u = torch.tensor(even(steps, bridge.end)[1:], dtype=torch.float64)
    return (1.0, *bridge.level(u).tolist())
