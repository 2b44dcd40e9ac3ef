"""Whether a game of student, critic and teacher is still sound: figures to watch, and what to do when one is off.

Distribution matching fails in few ways, and each has its figure. The critic falls behind the student, so that the
gradient is its error: `critic_excess`, its loss over the least that any field could reach. The scores differ by less
than that, so that there is nothing to follow: `score_gap`. Colours shift or everything grows grey: `mean_drift`. Modes
are lost or samples burst: `spread_drift`. `alarms` reads all four and says as a warning what is wrong and what helps.

As a term without gradient, `watched` logs a figure while the student learns.

Shapes: N samples, D coordinates; data of any shape are flattened.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.states import few_step, noised, uniform_levels
from limbeck.players import Players
from limbeck.probes.rows import first_rows

__all__ = [
    "advice",
    "alarms",
    "believed",
    "critic_excess",
    "drawn_once",
    "faults",
    "kernel_floor",
    "mean_drift",
    "score_gap",
    "spread_drift",
    "watched",
]

ONE_STEP, MIDDLE = few_step(), uniform_levels(low=0.3, high=0.9)
LEAST = 1e-12  # a student that has collapsed onto a point leaves no floor
FASTER = "give it more updates a step (`times` of its phase) or a higher rate, or the student a lower one"
BLOCK = 64  # pictures at a time
LIMITS = {"critic excess": 0.3, "critic lag": 0.1, "mean drift": 0.15, "spread drift": 0.5, "contrast drift": 0.5}
MANY = 200  # rows from which on limits need no allowance for chance
_kept: dict[str, Any] = {}  # the latest samples: the probes of one evaluation share them


def drawn_once(players: Players, data: Mapping[str, Source], draw: Expr, rows: int) -> tuple[Tensor, Batch]:
    """Samples of the student, and the rows whose noise they have; drawn again only once somebody has learnt.

    Args:
        players: the student that is sampled.
        data: the test split has a column x.
        draw: the sampler.
        rows: how many, at most.

    Returns:
        (N, ...) in the shape of a datum, and N rows of the test split.
    """
    # optimisers that are fused leave the version counters of weights as they were
    plain = draw, rows, [float(w.detach().double().sum()) for p in players.values() for w in p.params]
    same = "plain" in _kept and _kept["players"] is players and _kept["test"] is data["test"]
    if not same or _kept["plain"] != plain:
        _kept.update(plain=plain, players=players, test=data["test"], drawn=_drawn(players, data, draw, rows))
    drawn: tuple[Tensor, Batch] = _kept["drawn"]
    return drawn


def _drawn(players: Players, data: Mapping[str, Source], draw: Expr, rows: int) -> tuple[Tensor, Batch]:
    truth = first_rows(players, data, rows)
    with torch.no_grad():
        return torch.cat([draw(players, block) for block in _blocks(truth)]), truth  # type: ignore[operator]


def _blocks(batch: Batch) -> list[Batch]:
    """The rows, few at a time where they are pictures."""
    few = batch.size if batch.x.ndim < 3 else BLOCK
    return [batch.rows(slice(i, i + few)) for i in range(0, batch.size, few)]


def kernel_floor(x: Tensor, t: Tensor, seen: Tensor, others: Tensor) -> float:
    """The least error with which samples can be told from their noised versions, estimated from other samples.

    mean |x - E[x0 | x_t]|^2, E[x0 | x_t] = sum_j p_j x_j, p ~ N(x_t; (1 - t) x_j, t^2 I)

    Args:
        x: (N, D) samples.
        t: (N,) levels.
        seen: (N, D) the samples at their levels.
        others: (M, D) samples of the same distribution, apart from those.

    Returns:
        The floor, from above: exact as M grows, too high where noise is far smaller than the samples' distances.

    Example:
        >>> x = torch.zeros(3, 2)
        >>> kernel_floor(x, torch.full((3,), 0.5), x, torch.zeros(9, 2))
        0.0
    """
    a = (1 - t)[:, None, None]
    log_p = -(seen[:, None] - a * others[None]).square().sum(2) / (2 * t[:, None].square())
    return float((x - log_p.softmax(1) @ others).square().sum(1).mean())


def _denoised(
    players: Players, data: Mapping[str, Source], draw: Expr, levels: Expr, rows: int
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Half of the samples, the critic's and the teacher's belief of them (N, D) in float64, and the floor."""
    drawn, _ = drawn_once(players, data, draw, rows)
    flat, fake, real, seen = believed(players, data, draw, levels, rows)
    others = drawn[len(drawn) // 2 :].flatten(1).double()
    return flat, fake, real, kernel_floor(flat, seen.t.double(), seen.x.flatten(1).double(), others)


def believed(
    players: Players, data: Mapping[str, Source], draw: Expr, levels: Expr, rows: int
) -> tuple[Tensor, Tensor, Tensor, Batch]:
    """What critic and teacher make of the student's samples under noise.

    Args:
        players: the student that is sampled; `critic` and `teacher` answer "x0".
        data: the test split has a column x.
        draw: the sampler.
        levels: a level part.
        rows: how many samples, at most; half of them are noised.

    Returns:
        The samples, the critic's and the teacher's belief of them, (N, D) in float64, and the noised states.
    """
    drawn, truth = drawn_once(players, data, draw, rows)
    half = len(drawn) // 2
    x, batch = drawn[:half], truth.rows(slice(0, half))
    with torch.no_grad():
        seen = noised(players, batch, x, levels, "game")
        blocks = _blocks(seen)
        fake, real = (torch.cat([players[who](b, "x0") for b in blocks]) for who in ("critic", "teacher"))
    flat, fake, real = (v.flatten(1).double() for v in (x, fake, real))
    return flat, fake, real, seen


@part
def critic_excess(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, levels: Expr = MIDDLE, rows: int = 1_000
) -> float:
    """How far the critic's loss on the student's samples is above the least possible.

    mean |x - mu_critic(x_t)|^2 / floor - 1

    Args:
        players: the student that is sampled; `critic` and `teacher` answer "x0".
        data: the test split has a column x.
        draw: the sampler.
        levels: a level part; not too near to the data, where the floor is estimated too high.
        rows: how many samples, at most.

    Returns:
        Near 0 for a critic that follows; above 0.3 its error rules the gradient.

    Raises:
        UnknownName: there is no player `critic`, or none `teacher`.

    Source: Yin et al., arXiv:2405.14867, section 4.2, on what a critic that lags does.
    """
    x, fake, _, floor = _denoised(players, data, draw, levels, rows)
    return (float((x - fake).square().sum(1).mean()) - floor) / max(floor, LEAST)


@part
def score_gap(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, levels: Expr = MIDDLE, rows: int = 1_000
) -> float:
    """How far apart critic and teacher are on the student's samples, in the same unit as the excess.

    mean |mu_critic(x_t) - mu_teacher(x_t)|^2 / floor

    Args:
        players: the student that is sampled; `critic` and `teacher` answer "x0".
        data: the test split has a column x.
        draw: the sampler.
        levels: a level part.
        rows: how many samples, at most.

    Returns:
        0 for a student that matches its teacher; below the excess of the critic it says nothing.

    Raises:
        UnknownName: there is no player `critic`, or none `teacher`.

    Source: Yin et al., arXiv:2311.18828, equation 7.
    """
    _, fake, real, floor = _denoised(players, data, draw, levels, rows)
    return float((fake - real).square().sum(1).mean()) / max(floor, LEAST)


@part
def mean_drift(players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, rows: int = 1_000) -> float:
    """How far the mean of the samples is from that of the data.

    |mean x - mean y| / sqrt(tr Cov y)

    Args:
        players: the student that is sampled.
        data: the test split has a column x.
        draw: the sampler.
        rows: how many samples and data, at most.

    Returns:
        The distance, in deviations of the data.

    Raises:
        UnknownName: the test split has no column x.
    """
    drawn, truth = drawn_once(players, data, draw, rows)
    x, y = drawn.flatten(1).double(), truth.x.flatten(1).double()
    return float((x.mean(0) - y.mean(0)).norm() / y.var(0).sum().sqrt())


@part
def spread_drift(players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, rows: int = 1_000) -> float:
    """How much wider than the data the samples lie, as a logarithm: below 0 for narrower.

    log(tr Cov x / tr Cov y)

    Args:
        players: the student that is sampled.
        data: the test split has a column x.
        draw: the sampler.
        rows: how many samples and data, at most.

    Returns:
        0 for the same spread.

    Raises:
        UnknownName: the test split has no column x.
    """
    drawn, truth = drawn_once(players, data, draw, rows)
    x, y = drawn.flatten(1).double(), truth.x.flatten(1).double()
    return float((x.var(0).sum() / y.var(0).sum()).log())


def advice(figures: Mapping[str, float]) -> list[str]:
    """What is wrong with a game, and what to do.

    Args:
        figures: those that `faults` reads; those that are missing are not judged.

    Returns:
        A line for each thing that is wrong; none if all is well.

    Example:
        >>> advice({"critic excess": 0.1, "spread drift": -0.9})[0].split(":")[0]
        'the samples have 41% of the variance of the data'
    """
    return [line for _, line in faults(figures).values()]


def faults(figures: Mapping[str, float], rows: int = MANY) -> dict[str, tuple[float, str]]:
    """What is wrong with a game, by how much, and what to do.

    Args:
        figures: "critic excess", "critic lag", "score gap", "mean drift", "spread drift", "contrast drift".
        rows: that they were measured on; with few of them they must be further off.

    Returns:
        The figure that is off to its size and a line.
    """
    wide = max(1.0, (MANY / max(1, rows)) ** 0.5)

    def off(name: str) -> float:
        """How far a figure is beyond its limit, on either side."""
        value = figures.get(name, 0.0)
        return math.copysign(max(0.0, abs(value) - wide * LIMITS[name]), value)

    excess, gap = figures.get("critic excess", 0.0), figures.get("score gap", 1.0)
    share, contrast = (math.exp(min(50.0, figures.get(f"{name} drift", 0.0))) for name in ("spread", "contrast"))
    behind = max(off("critic excess"), off("critic lag"))
    said = {
        "critic excess": (off("critic excess"), f"the critic is behind the student, its loss {excess:.0%} above the "
            f"floor: {FASTER}"),
        "critic lag": (off("critic lag"), "the critic is behind the student, it denoises the student's samples worse "
            f"than the teacher does: {FASTER}"),
        "score gap": (excess if behind <= 0 and 0.02 < gap < excess else 0.0, f"critic and teacher differ by {gap:.2g},"
            f" less than the critic errs ({excess:.2g}): the student follows noise; stop here, or let the rates fall"),
        "mean drift": (off("mean drift"), f"the mean of the samples is {figures.get('mean drift', 0.0):.2f} deviations "
            "from that of the data: compare the student's x0 with the teacher's at high noise; move the levels of the "
            "loss towards noise, or lower the student's rate"),
        "narrow": (-off("spread drift"), f"the samples have {share:.0%} of the variance of the data: modes are being "
            "lost; lower the guidance of the teacher, or add a term that keeps them (a consistency tangent, pairs, "
            "data)"),
        "wide": (off("spread drift"), f"the samples have {share:.0%} of the variance of the data: they burst; lower "
            "the student's rate, or clip its gradient"),
        "flat": (-off("contrast drift"), f"the pictures have {contrast:.0%} of the contrast of the data: they tend to "
            "one colour; lower the student's rate, and ask the teacher without guidance"),
    }  # fmt: skip
    return {name: found for name, found in said.items() if found[0] > 0}


@part
def alarms(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, levels: Expr = MIDDLE, rows: int = 1_000
) -> float:
    """How many things are wrong with a game; each is told as a warning that says what to do.

    Args:
        players: the student that is sampled; `critic` and `teacher` answer "x0".
        data: the test split has a column x.
        draw: the sampler.
        levels: a level part.
        rows: how many samples, at most.

    Returns:
        Their number.

    Raises:
        UnknownName: there is no player `critic`, or none `teacher`.
    """
    args = dict(draw=draw, rows=rows)
    figures = {
        "critic excess": critic_excess(levels=levels, **args)(players, data),
        "score gap": score_gap(levels=levels, **args)(players, data),
        "mean drift": mean_drift(**args)(players, data),
        "spread drift": spread_drift(**args)(players, data),
    }
    lines = advice(figures)
    for line in lines:
        warnings.warn(line, stacklevel=2)
    return float(len(lines))


@part
def watched(players: Players, batch: Batch, *, levels: Expr = MIDDLE) -> Tensor:
    """A term that only watches: the gap of the scores on this batch, without gradient, so that it is logged by name.

    sg[mean |mu_critic(x_t) - mu_teacher(x_t)|^2], the mean over coordinates

    It adds to the number of the loss and nothing to its gradient.

    Args:
        players: student, critic and teacher answer "x0".
        batch: the student's states, columns x and t.
        levels: a level part.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `critic`, or none `teacher`.

    Example:
        `terms(match=distribution_matching(), gap=watched())`
    """
    with torch.no_grad():
        seen = noised(players, batch, players.student(batch, "x0").detach(), levels, "watched")
        return (players.critic(seen, "x0") - players.teacher(seen, "x0")).square().flatten(1).mean(1)
