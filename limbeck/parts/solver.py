"""Solvers: carry noise to data along a field, in a given number of evaluations.

A solver is a part `(players, batch)` that starts at `batch.x`, at the first of the times in `batch.grid`, and returns
the states at all of them; it asks the student, and `.on(student="teacher")` sends it to another player. Times are those
of rectified flow, where a step is

    x_s = x_t + (s - t) v(x_t, t),

which is DDIM on every Gaussian path: a_s x0 + s_s e does not change when x is rescaled. So one solver serves all paths,
and the solvers of diffusion models that integrate exactly in log(a / s) are here too. Times may fall (sampling) or rise
(inversion), and differ from row to row.

Shapes: B rows, n + 1 times; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.states import like
from limbeck.players import Player, Players

__all__ = [
    "ancestral",
    "ddim",
    "dpm_multistep",
    "euler",
    "even",
    "exponential_step",
    "heun",
    "in_steps",
    "karras",
    "log_ratio",
    "midpoint",
    "ode_sample",
    "sde",
    "shifted",
    "solve",
    "third",
]


# -- times ------------------------------------------------------------------------------------------------------------


def even(steps: int, start: float = 1.0, end: float = 0.0) -> tuple[float, ...]:
    """Times at equal distances, steps + 1 of them.

    Raises:
        BadValue: fewer than one step.

    Example:
        >>> even(4)
        (1.0, 0.75, 0.5, 0.25, 0.0)
    """
    _positive(steps)
    return tuple(start + (end - start) * i / steps for i in range(steps + 1))


def shifted(steps: int, shift: float) -> tuple[float, ...]:
    """Even times moved towards the noise, as for pictures of many pixels.

    t = k u / (1 + (k - 1) u)

    Args:
        steps: how many.
        shift: k; 1 for even times.

    Returns:
        steps + 1 times from 1 to 0.

    Raises:
        BadValue: fewer than one step.

    Example:
        >>> shifted(2, 3.0)
        (1.0, 0.75, 0.0)

    Source: Esser et al., arXiv:2403.03206, the shift of levels with resolution.
    """
    return tuple(shift * u / (1 + (shift - 1) * u) for u in even(steps))


def karras(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> tuple[float, ...]:
    """The times of EDM: even in sigma^(1 / rho), then 0.

    sigma_i = (smax^(1/rho) + i / (n - 1) (smin^(1/rho) - smax^(1/rho)))^rho, t = sigma / (1 + sigma)

    Args:
        steps: n, how many.
        sigma_min: the last noise before 0, in units of the data.
        sigma_max: the first.
        rho: how far the times crowd towards low noise.

    Returns:
        steps + 1 times, from just below 1 to 0.

    Raises:
        BadValue: fewer than one step.

    Example:
        >>> [round(t, 3) for t in karras(3, sigma_max=9.0)]
        [0.9, 0.307, 0.002, 0.0]

    Source: Karras et al., arXiv:2206.00364, equation 5.
    """
    _positive(steps)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = [(top + i / max(1, steps - 1) * (bottom - top)) ** rho for i in range(steps)]
    return (*(s / (1 + s) for s in sigmas), 0.0)


def _positive(steps: int) -> None:
    if steps < 1:
        raise BadValue(f"a solver needs at least one step, got steps = {steps}")


# -- one step ---------------------------------------------------------------------------------------------------------

Step = Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, Tensor], Tensor]


def ddim(x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """One step of DDIM, from what the datum is believed to be; a straight line on the path of rectified flow.

    x_s = (s / t) x_t + (1 - s / t) x0

    Args:
        x: (B, ...) states.
        x0: (B, ...) the datum as the field believes it.
        t: (B,) levels of the states, above 0.
        s: (B,) levels to reach.

    Returns:
        (B, ...).

    Example:
        >>> ddim(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([1.0]), torch.tensor([0.25]))
        tensor([[0.2500, 0.2500]])

    Source: Song et al., arXiv:2010.02502, equation 12 with eta = 0.
    """
    keep = like(s / t, x)
    return keep * x + (1 - keep) * x0


def _run(players: Players, batch: Batch, step: Step) -> list[Tensor]:
    """Apply a step that remembers nothing from each time of the grid to the next."""
    x, states = batch.x, [batch.x]

    def field(y: Tensor, t: Tensor) -> Tensor:
        return players.student(batch.with_(x=y, t=t), "velocity")  # type: ignore[no-any-return]

    for t, s in _pairs(batch):
        x = step(field, x, t, s)
        states.append(x)
    return states


def _pairs(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    grid = batch.grid.to(batch.x.dtype)
    return list(zip(grid.T[:-1], grid.T[1:], strict=True))


def _euler(field: Any, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return x + like(s - t, x) * field(x, t)


def _heun(field: Any, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    v = field(x, t)
    there = x + like(s - t, x) * v
    if bool((s == 0).all()):
        return there
    return x + like((s - t) / 2, x) * (v + field(there, s))


def _midpoint(field: Any, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    half = (t + s) / 2
    return x + like(s - t, x) * field(x + like(half - t, x) * field(x, t), half)


def _third(field: Any, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    h = like(s - t, x)
    k1 = field(x, t)
    k2 = field(x + h / 3 * k1, t + (s - t) / 3)
    k3 = field(x + 2 * h / 3 * k2, t + 2 * (s - t) / 3)
    return x + h / 4 * (k1 + 3 * k3)


# -- solvers ----------------------------------------------------------------------------------------------------------


@part
def euler(players: Players, batch: Batch) -> list[Tensor]:
    """Straight steps: order 1, one evaluation a step. This is DDIM.

    x_s = x_t + (s - t) v(x_t, t)

    Args:
        players: the student answers "velocity" on columns x, t.
        batch: the start in x, the times (B, n + 1) in `grid`.

    Returns:
        n + 1 states, (B, ...) each.

    Source: Song et al., arXiv:2010.02502, as a step of an ODE.
    """
    return _run(players, batch, _euler)


@part
def heun(players: Players, batch: Batch) -> list[Tensor]:
    """The mean of the slopes at both ends: order 2, two evaluations a step; the step that ends at the data is straight.

    x' = x_t + (s - t) v(x_t, t),  x_s = x_t + (s - t) / 2 (v(x_t, t) + v(x', s))

    Args:
        players: the student answers "velocity" on columns x, t.
        batch: the start in x, the times (B, n + 1) in `grid`.

    Returns:
        n + 1 states, (B, ...) each.

    Source: Karras et al., arXiv:2206.00364, the deterministic sampler.
    """
    return _run(players, batch, _heun)


@part
def midpoint(players: Players, batch: Batch) -> list[Tensor]:
    """The slope half-way: order 2, two evaluations a step, none at the end of it.

    x_s = x_t + (s - t) v(x_t + (s - t) / 2 v(x_t, t), (t + s) / 2)

    Args:
        players: the student answers "velocity" on columns x, t.
        batch: the start in x, the times (B, n + 1) in `grid`.

    Returns:
        n + 1 states, (B, ...) each.

    Source: Runge, "Ueber die numerische Auflösung von Differentialgleichungen", 1895.
    """
    return _run(players, batch, _midpoint)


@part
def third(players: Players, batch: Batch) -> list[Tensor]:
    """Heun's rule of order 3: three evaluations a step, none at the end of it.

    k1 = v(x, t), k2 = v(x + h/3 k1, t + h/3), k3 = v(x + 2h/3 k2, t + 2h/3),  x_s = x + h/4 (k1 + 3 k3), h = s - t

    Args:
        players: the student answers "velocity" on columns x, t.
        batch: the start in x, the times (B, n + 1) in `grid`.

    Returns:
        n + 1 states, (B, ...) each.

    Source: Heun, "Neue Methoden zur approximativen Integration", 1900.
    """
    return _run(players, batch, _third)


@part
def dpm_multistep(players: Players, batch: Batch, *, order: int = 2) -> list[Tensor]:
    """DPM-Solver++ with memory: one evaluation a step, whose past ones give its order.

    x_s = (s_s / s_t) x_t - a_s (e^-h - 1) (D0 + c1 D1 + c2 D2),  h = l_s - l_t, l = log(a / s), with D1, D2 divided
    differences of the data predictions over l; a step that starts at pure noise or ends at the data has order 1, and
    so has the first, which bounds the order of the whole by 2

    Args:
        players: the student answers "x0" on columns x, t.
        batch: the start in x, the times (B, n + 1) in `grid`.
        order: 1, 2 or 3.

    Returns:
        n + 1 states, (B, ...) each.

    Raises:
        BadValue: another order.

    Source: Lu et al., arXiv:2211.01095, DPM-Solver++ multistep.
    """
    if order not in (1, 2, 3):
        raise BadValue(f"dpm_multistep has order 1, 2 or 3, got {order}")
    x, states = batch.x, [batch.x]
    past: list[tuple[Tensor, Tensor]] = []  # data predictions and their l, newest first
    for t, s in _pairs(batch):
        x0 = players.student(batch.with_(x=x, t=t), "x0")
        past = [(x0, log_ratio(t)), *past[: order - 1]]
        x = exponential_step(x, past, t, s)
        states.append(x)
    return states


def log_ratio(t: Tensor) -> Tensor:
    """How much of the datum is left against the noise; infinite at both ends.

    l = log(a / s) = log(1 - t) - log t

    Args:
        t: (B,) levels.

    Returns:
        (B,).

    Example:
        >>> log_ratio(torch.tensor([0.5, 1.0]))
        tensor([0., -inf])
    """
    return (1 - t).log() - t.log()


def exponential_step(x: Tensor, past: list[tuple[Tensor, Tensor]], t: Tensor, s: Tensor) -> Tensor:
    """One step that is exact where the data prediction is a polynomial in l through the past ones.

    x_s = (s_s / s_t) x_t - a_s (phi1 D0 - phi2 D1 + phi3 D2),
    phi1 = e^-h - 1, phi2 = phi1 / h + 1, phi3 = phi2 / h - 1/2, h = l_s - l_t

    Args:
        x: (B, ...) states at level t.
        past: data predictions (B, ...) and their l (B,), newest first, at most three.
        t: (B,) levels of the states.
        s: (B,) levels to reach.

    Returns:
        (B, ...).

    Source: Lu et al., arXiv:2211.01095, DPM-Solver++ of orders one to three.
    """
    end, (d0, start) = log_ratio(s), past[0]
    h = end - start
    # phi1 = e^-h - 1 is written by what is left of the noise, which is finite at both ends: e^-h = s_s a_t / (a_s s_t)
    phi1 = s * (1 - t) / ((1 - s) * t) - 1
    out = like(s / t, x) * x - like((1 - s) * phi1, x) * d0
    known = list(
        takewhile(
            lambda r: bool((torch.isfinite(r) & (r != 0)).all()), ((start - before) / h for _, before in past[1:])
        )
    )
    slopes = [like(1 / r, x) * (d0 - before) for r, (before, _) in zip(known, past[1:], strict=False)]
    if len(slopes) == 1:
        return out - like((1 - s) * phi1 / 2, x) * slopes[0]
    if len(slopes) == 2:
        r0, r1 = known[0], known[1] - known[0]
        near, far = slopes[0], like(1 / r1, x) * (past[1][0] - past[2][0])
        d1 = near + like(r0 / (r0 + r1), x) * (near - far)
        d2 = like(1 / (r0 + r1), x) * (near - far)
        phi2 = phi1 / h + 1
        phi3 = phi2 / h - 0.5
        out = out + like((1 - s) * phi2, x) * d1 - like((1 - s) * phi3, x) * d2
    return out


@part
def sde(players: Players, batch: Batch, *, eta: float = 1.0) -> list[Tensor]:
    """DDIM with fresh noise in every step: order 1 in law, one evaluation a step.

    x_s = a_s x0 + sqrt(s_s^2 - n^2) e + n z,  n = eta sqrt(1 - (a_t s_s / (a_s s_t))^2) s_s

    Args:
        players: the student answers "x0" on columns x, t.
        batch: the start in x, falling times (B, n + 1) in `grid`.
        eta: 0 for DDIM, 1 for the ancestral sampler of DDPM.

    Returns:
        n + 1 states, (B, ...) each.

    Raises:
        BadValue: eta outside [0, 1].

    Source: Song et al., arXiv:2010.02502, equation 16, carried to this path.
    """
    if not 0 <= eta <= 1:
        raise BadValue(f"eta must lie in [0, 1], got {eta}")
    x, states = batch.x, [batch.x]
    for i, (t, s) in enumerate(_pairs(batch)):
        x0 = players.student(batch.with_(x=x, t=t), "x0")
        e = (x - like(1 - t, x) * x0) / like(t, x)
        left = ((1 - t) * s / ((1 - s) * t)).clamp(max=1)
        fresh = eta * s * (1 - left.square()).clamp(min=0).sqrt()
        kept = (s.square() - fresh.square()).clamp(min=0).sqrt()
        z = batch.rng.fold(i).normal("step", *x.shape[1:]).to(x.dtype)
        x = like(1 - s, x) * x0 + like(kept, x) * e + like(fresh, x) * z
        states.append(x)
    return states


@part
def ancestral(players: Players, batch: Batch) -> list[Tensor]:
    """Predict the datum and noise it anew to the next time: the sampler of consistency models.

    x_s = (1 - s) x0(x_t, t) + s z

    Args:
        players: the student answers "x0" on columns x, t.
        batch: the start in x, falling times (B, n + 1) in `grid`.

    Returns:
        n + 1 states, (B, ...) each.

    Source: Song et al., arXiv:2303.01469, algorithm 1.
    """
    x, states = batch.x, [batch.x]
    for i, (t, s) in enumerate(_pairs(batch)):
        x0 = players.student(batch.with_(x=x, t=t), "x0")
        z = batch.rng.fold(i).normal("again", *x.shape[1:]).to(x.dtype)
        x = like(1 - s, x) * x0 + like(s, x) * z
        states.append(x)
    return states


# -- use --------------------------------------------------------------------------------------------------------------

EULER, SIXTEEN = euler(), even(16)


def solve(
    player: Player, batch: Batch, solver: Expr, x: Tensor, grid: tuple[float, ...] | list[Tensor]
) -> list[Tensor]:
    """Carry states along a player's field.

    Args:
        player: whose field it is.
        batch: the rows, whose other columns (a class `y`) and random streams go along.
        solver: a solver part.
        x: (B, ...) the start.
        grid: n + 1 times, numbers or (B,) tensors.

    Returns:
        n + 1 states, (B, ...) each; the first is x.

    Raises:
        BadValue: fewer than two times.

    Example:
        `ends = solve(players.teacher, batch, heun(), noise, even(18))[-1]`
    """
    if len(grid) < 2:
        raise BadValue(f"a solver goes from one time to another, got {len(grid)} time")
    times = [torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(batch.size) for t in grid]
    found = solver(Players({"student": player}), batch.with_(x=x, grid=torch.stack(times, 1)))
    return found  # type: ignore[no-any-return]


@part
def ode_sample(players: Players, batch: Batch, *, solver: Expr = EULER, times: tuple[float, ...] = SIXTEEN) -> Tensor:
    """Sample the student with a solver, from noise to data.

    x(t_n), from x(t_0) = t_0 z, z ~ N(0, I): just below 1 what is left of the datum is neglected

    Args:
        players: the student answers what the solver asks.
        batch: rows whose column x has the shape of a datum.
        solver: a solver part.
        times: falling times, from 1 or just below; `even(n)`, `karras(n)`, `shifted(n, k)`.

    Returns:
        (B, ...) samples.

    Raises:
        BadValue: fewer than two times.

    Example:
        >>> from types import SimpleNamespace
        >>> still = Player("student", None, answer=lambda b, want: {"velocity": torch.zeros_like(b.x)})
        >>> drawn = ode_sample(times=even(2))(Players({"student": still}), Batch({"x": torch.ones(3, 2)}))
        >>> drawn.shape
        torch.Size([3, 2])
    """
    z = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
    return solve(players.student, batch, solver, times[0] * z, times)[-1]


def in_steps(sampler: Expr, steps: int) -> Expr:
    """The same sampler with so many even steps.

    Args:
        sampler: a part whose `times` fall from 1, to 0 or, where it predicts the datum itself, to the last level.
        steps: how many.

    Returns:
        The part with other times.

    Raises:
        UnknownName: a part without times.
        BadValue: fewer than one step.

    Example:
        >>> from limbeck.parts.states import few_step
        >>> in_steps(few_step(), 2).children()["times"], in_steps(ode_sample(), 2).children()["times"]
        ((1.0, 0.5), (1.0, 0.5, 0.0))
    """
    times = sampler.children().get("times")
    return sampler.child("times", even(steps) if times and times[-1] == 0 else even(steps)[:-1])
