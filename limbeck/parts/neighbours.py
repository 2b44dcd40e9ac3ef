"""Neighbours: two levels of one trajectory, and the states there, for losses of consistency.

A first part chooses the levels, a second one the states: `grid_step() >> teacher_step()`, or with a level to reach
`grid_step() >> reach_below() >> teacher_step()`. Columns: `t` and `r < t` the levels, `s <= r` the one to reach; `x`
and `near` the states at t and r, `real` the datum; `q > t` and `far` on the side of the noise, where they are wanted.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.solver import euler, even, karras, solve
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = [
    "even_ladder_step",
    "free_step",
    "grid_step",
    "ladder",
    "ladder_step",
    "line_states",
    "reach_below",
    "rung_masses",
    "teacher_step",
]

FIFTY, EULER = even(50), euler()

# -- levels -----------------------------------------------------------------------------------------------------------


def _between(batch: Batch, times: Tensor, k: Tensor, skip: int = 1) -> Batch:
    """The batch at the k-th of falling times, and `skip` times further."""
    times = times.to(k.device, torch.float32)
    return batch.with_(t=times[k], r=times[k + skip])


@part
def grid_step(players: Players, batch: Batch, *, times: tuple[float, ...] = FIFTY, skip: int = 1) -> Batch:
    """A step of a fixed grid, all equally likely.

    t = times[k], r = times[k + skip], k uniform

    Args:
        players: not asked.
        batch: the rows.
        times: falling levels, the last of which is reached: `even(n)`, `karras(n)`.
        skip: grid steps from t to r.

    Returns:
        The batch with columns t and r.

    Raises:
        BadValue: a grid with fewer steps than are skipped.

    Example:
        >>> batch = grid_step(times=(1.0, 0.5, 0.0), skip=2)(None, Batch({"x": torch.zeros(1, 2)}))
        >>> batch.t, batch.r
        (tensor([1.]), tensor([0.]))

    Source: Song et al., arXiv:2303.01469, algorithm 2.
    """
    if not 0 < skip < len(times):
        raise BadValue(f"grid_step.skip must be at least 1 and below the {len(times)} times of the grid, got {skip}")
    return _between(batch, torch.tensor(times), batch.rng.integers("pair", len(times) - skip).view(-1), skip)


@part
def free_step(players: Players, batch: Batch, *, longest: float = 0.1) -> Batch:
    """A level anywhere, and a step of random length from it to either side.

    t ~ U(0, 1);  r = t - u min(t, h),  q = t + u' min(1 - t, h),  u and u' ~ U(0, 1)

    Args:
        players: not asked.
        batch: the rows.
        longest: h, the longest step.

    Returns:
        The batch with columns t, r and q.

    Example:
        >>> batch = free_step(longest=0.2)(None, Batch({"x": torch.zeros(99, 2)}))
        >>> bool((batch.r < batch.t).all()), bool((batch.q > batch.t).all()), bool((batch.q - batch.r < 0.4).all())
        (True, True, True)

    Source: Dao et al., arXiv:2412.16906, bidirectional consistency.
    """
    t, down, up = batch.rng.uniform("pair", 3).unbind(1)
    return batch.with_(t=t, r=t - down * t.clamp(max=longest), q=t + up * (1 - t).clamp(max=longest))


@lru_cache(maxsize=64)
def ladder(rungs: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """The Karras ladder as levels, falling, and 0 below it: (rungs + 1,) in float64.

    Raises:
        BadValue: fewer than one rung.
    """
    return torch.tensor(karras(rungs, sigma_min, sigma_max, rho), dtype=torch.float64)


def rung_masses(times: Tensor, mean: float, std: float) -> Tensor:
    """How likely each step of a ladder is, where the logarithm of the noise is to be normal.

    p_i ~ erf((ln sigma_i - m) / (sqrt(2) d)) - erf((ln sigma_{i+1} - m) / (sqrt(2) d)), sigma = t / (1 - t)

    Args:
        times: (n + 1,) falling levels; the last may be 0.
        mean: m.
        std: d.

    Returns:
        (n,), which sum to 1.

    Example:
        >>> rung_masses(torch.tensor([0.75, 0.5, 0.25]), 0.0, 1.0)
        tensor([0.5000, 0.5000])

    Source: Song and Dhariwal, arXiv:2310.14189, the discrete lognormal distribution.
    """
    below = torch.erf(((times / (1 - times)).log() - mean) / (2**0.5 * std))
    mass = below[:-1] - below[1:]
    return mass / mass.sum()


@part
def ladder_step(
    players: Players,
    batch: Batch,
    *,
    rungs: float = 11.0,
    mean: float = -1.1,
    std: float = 2.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Batch:
    """A step of a Karras ladder whose rungs may grow in number, at noise of a lognormal density.

    t = t_i, r = t_{i+1}, P(i) ~ erf((ln sigma_i - m) / (sqrt(2) d)) - erf((ln sigma_{i+1} - m) / (sqrt(2) d))

    Args:
        players: not asked.
        batch: the rows.
        rungs: N, levels above 0; a schedule such as `doubling()` for a curriculum.
        mean: m, of ln(sigma), sigma in units of the data.
        std: d.
        sigma_min: the noise of the lowest rung; below it lies the datum.
        sigma_max: the noise of the highest.
        rho: how far the rungs crowd towards low noise.

    Returns:
        The batch with columns t and r.

    Raises:
        BadValue: fewer than one rung.

    Source: Song and Dhariwal, arXiv:2310.14189, the discrete lognormal distribution.
    """
    times = ladder(int(rungs), sigma_min, sigma_max, rho)
    below = rung_masses(times, mean, std).cumsum(0).to(batch.device)
    u = batch.rng.uniform("pair").view(-1).double()
    return _between(batch, times, torch.searchsorted(below, u).clamp(max=len(below) - 1))


@part
def even_ladder_step(
    players: Players,
    batch: Batch,
    *,
    rungs: float = 11.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Batch:
    """A step of a Karras ladder whose rungs may grow in number, all equally likely.

    t = t_i, r = t_{i+1}, i uniform

    Args:
        players: not asked.
        batch: the rows.
        rungs: N, levels above 0; a schedule such as `doubling()` for a curriculum.
        sigma_min: the noise of the lowest rung, in units of the data; below it lies the datum.
        sigma_max: the noise of the highest.
        rho: how far the rungs crowd towards low noise.

    Returns:
        The batch with columns t and r.

    Raises:
        BadValue: fewer than one rung.

    Source: Song et al., arXiv:2303.01469, algorithm 3.
    """
    times = ladder(int(rungs), sigma_min, sigma_max, rho)
    return _between(batch, times, batch.rng.integers("pair", len(times) - 1).view(-1))


@part
def reach_below(players: Players, batch: Batch, *, segments: int = 1) -> Batch:
    """A level to reach, anywhere from the nearer state down to the end of the segment of the path.

    s ~ U(b, r), b = (ceil(K t) - 1) / K the border below t; r is raised to b where it lies below

    Args:
        players: not asked.
        batch: the levels t and r.
        segments: K, into which [0, 1] is cut evenly; 1 for trajectories down to the data.

    Returns:
        The batch with the column s.

    Raises:
        BadValue: fewer than one segment.

    Example:
        >>> batch = Batch({"t": torch.tensor([0.6, 0.5]), "r": torch.tensor([0.45, 0.4])})
        >>> there = reach_below(segments=2)(None, batch)
        >>> there.r, there.s[0], bool(there.s[1] < 0.4)
        (tensor([0.5000, 0.4000]), tensor(0.5000), True)

    Source: Ren et al., arXiv:2404.13686, trajectory segments; in one segment, Kim et al., arXiv:2310.02279.
    """
    if segments < 1:
        raise BadValue(f"reach_below.segments must be at least 1, got {segments}")
    border = ((batch.t * segments - 1e-4).ceil().clamp(min=1) - 1) / segments
    r = torch.maximum(batch.r, border)
    return batch.with_(r=r, s=border + batch.rng.uniform("reach").view(-1).to(r.dtype) * (r - border))


# -- states -----------------------------------------------------------------------------------------------------------


def _noised(batch: Batch, level: Tensor) -> Tensor:
    """The datum of each row at a level, always with the same noise."""
    noise = batch.rng.normal("noise", *batch.x.shape[1:]).to(batch.x.dtype)
    return (1 - like(level, noise)) * batch.x + like(level, noise) * noise


@part
def line_states(players: Players, batch: Batch) -> Batch:
    """Two states with one datum and one noise: consistency training, which needs no teacher.

    x = (1 - t) x0 + t e,  near = (1 - r) x0 + r e

    Args:
        players: not asked.
        batch: rows whose column x is a datum, with levels t and r.

    Returns:
        The batch with columns x, near and real.

    Example:
        >>> batch = Batch({"x": torch.ones(1, 2), "t": torch.ones(1), "r": torch.zeros(1)})
        >>> line_states()(None, batch).near
        tensor([[1., 1.]])

    Source: Song et al., arXiv:2303.01469, algorithm 3.
    """
    return batch.with_(x=_noised(batch, batch.t), near=_noised(batch, batch.r), real=batch.x)


@part
def teacher_step(players: Players, batch: Batch, *, solver: Expr = EULER, steps: int = 1) -> Batch:
    """A noised datum, and where the teacher's solver carries it.

    x = (1 - t) x0 + t e,  near = Solve_teacher(x, t -> r);  far = Solve_teacher(x, t -> q) where q is given

    Args:
        players: the teacher answers what the solver asks.
        batch: rows whose column x is a datum, with levels t and r, and q if the far side is wanted.
        solver: a solver part.
        steps: of the solver, even ones.

    Returns:
        The batch with columns x, near, real, and far if q is there.

    Raises:
        UnknownName: there is no player `teacher`, or no column r.

    Source: Song et al., arXiv:2303.01469, algorithm 2.
    """
    x = _noised(batch, batch.t)
    to = {"near": batch.r} | ({"far": batch.q} if "q" in batch else {})
    ends = {name: _carried(players, batch, x, level, solver, steps) for name, level in to.items()}
    return batch.with_(x=x, real=batch.x, **ends)


def _carried(players: Players, batch: Batch, x: Tensor, to: Tensor, solver: Expr, steps: int) -> Tensor:
    """Where the teacher's solver carries states from level t to another."""
    grid = [batch.t + (to - batch.t) * i / steps for i in range(steps + 1)]
    return solve(players.teacher, batch.without("s"), solver, x, grid)[-1]  # a field is told of no end
