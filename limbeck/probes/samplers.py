"""Samples measured by their class, and against the samples of another sampler.

Shapes: N samples, D coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.solver import ode_sample
from limbeck.parts.states import few_step
from limbeck.players import Players
from limbeck.probes.distribution import sampled, sliced_wasserstein
from limbeck.probes.modes import nearest_mode
from limbeck.rng import Rng

__all__ = ["class_purity", "class_w2", "sampler_gap"]

ONE_STEP, TEACHER = few_step(), ode_sample().on(student="teacher")


@part(higher=True)
def class_purity(players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, rows: int = 10_000) -> float:
    """The part of the samples that lie in a mode of the class that was asked for.

    mean_i [|x_i - m_k| <= 3 std_k for the nearest mode k, and class(k) = y_i]

    Args:
        players: the student that is sampled.
        data: the test split has columns x, y and mode, and every mode is of one class.
        draw: the sampler.
        rows: how many samples and data, at most.

    Returns:
        In [0, 1].

    Raises:
        UnknownName: the test split has no column x, y or mode.
    """
    x, truth = sampled(players, data, draw, rows)
    y, real = truth.y, truth.x.flatten(1).double()
    nearest, near, member, share = nearest_mode(x, real, truth.mode)
    labels = torch.zeros_like(share, dtype=y.dtype).scatter(0, member, y)
    return float((near & (labels[nearest] == y)).double().mean())


@part
def class_w2(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, rows: int = 10_000, projections: int = 64
) -> float:
    """Sliced 2-Wasserstein distance between samples and data of the same class, averaged over classes.

    mean_c sqrt(mean_u W2(u . x_c, u . y_c)^2)

    Args:
        players: the student that is sampled.
        data: the test split has columns x and y.
        draw: the sampler.
        rows: how many samples and data, at most.
        projections: the number of directions.

    Returns:
        The distance, in units of the data.

    Raises:
        UnknownName: the test split has no column x or y.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015, for each class.
    """
    x, truth = sampled(players, data, draw, rows)
    real = truth.x.flatten(1).double()
    u = Rng(("directions",), torch.arange(projections)).normal("u", x.shape[1]).to(x)
    u = u / u.norm(dim=1, keepdim=True)
    far = [sliced_wasserstein(x[truth.y == c], real[truth.y == c], u) for c in truth.y.unique()]
    return sum(far) / len(far)


@part
def sampler_gap(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, other: Expr = TEACHER, rows: int = 10_000
) -> float:
    """Sliced 2-Wasserstein distance between what two samplers draw for the same rows.

    sqrt(mean_u W2(u . x, u . y)^2) over 64 directions u drawn once

    Args:
        players: the student, and whom the other sampler asks.
        data: the test split has a column x.
        draw: the sampler that is measured.
        other: the sampler it is measured against.
        rows: how many samples of each, at most.

    Returns:
        The distance, in units of the data.

    Raises:
        UnknownName: the test split has no column x.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015.
    """
    (x, _), (y, _) = (sampled(players, data, sampler, rows) for sampler in (draw, other))
    u = Rng(("directions",), torch.arange(64)).normal("u", x.shape[1]).to(x)
    return sliced_wasserstein(x, y, u / u.norm(dim=1, keepdim=True))
