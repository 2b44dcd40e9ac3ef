"""How far the student's samples are from the data of the test split.

Every probe samples the student once for each of the first rows of the test split, with the columns of that row (a class
`y`) and the noise of that row, so that two students are compared on the same noise. `draw` is the sampler: a part
`(players, batch)` that returns samples.

Shapes: N samples, M data, D coordinates; data of any shape are flattened.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.states import few_step
from limbeck.players import Players
from limbeck.probes.modes import nearest_mode
from limbeck.probes.rows import first_rows
from limbeck.rng import Rng

__all__ = [
    "energy_distance",
    "energy_gap",
    "gaussian_mmd",
    "mmd",
    "mode_quality",
    "mode_recall",
    "sampled",
    "sliced_w2",
    "sliced_wasserstein",
]

ONE_STEP = few_step()


def sampled(players: Players, data: Mapping[str, Source], draw: Expr, rows: int) -> tuple[Tensor, Batch]:
    """Sample the student once for each of the first rows of the test split, with the noise of that row.

    Args:
        players: the student that is sampled.
        data: the test split has a column x.
        draw: the sampler.
        rows: how many, at most.

    Returns:
        Samples (N, D) in float64, and the rows that they are compared with.
    """
    truth = first_rows(players, data, rows)
    with torch.no_grad():
        samples = draw(players, truth)  # type: ignore[operator]
    return samples.flatten(1).double(), truth


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> float:
    """The 2-Wasserstein distance of two samples of equal size, averaged over projections.

    sqrt(mean_u mean_i (sort(x u)_i - sort(y u)_i)^2)

    Args:
        x: (N, D).
        y: (N, D).
        directions: (P, D) unit vectors.

    Returns:
        The distance, in units of the data.

    Example:
        >>> sliced_wasserstein(torch.zeros(4, 1), torch.ones(4, 1), torch.ones(1, 1))
        1.0

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015.
    """
    gap = (x @ directions.T).sort(0).values - (y @ directions.T).sort(0).values
    return float(gap.square().mean().sqrt())


@part
def sliced_w2(
    players: Players,
    data: Mapping[str, Source],
    *,
    draw: Expr = ONE_STEP,
    rows: int = 10_000,
    projections: int = 64,
) -> float:
    """Sliced 2-Wasserstein distance between samples and data.

    sqrt(mean_u W2(u . x, u . y)^2) over directions u drawn once

    Args:
        players: the student that is sampled.
        data: the test split has a column x.
        draw: the sampler.
        rows: how many samples and data, at most.
        projections: the number of directions.

    Returns:
        The distance, in units of the data.

    Raises:
        UnknownName: the test split has no column x.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015.
    """
    x, truth = sampled(players, data, draw, rows)
    u = Rng(("directions",), torch.arange(projections)).normal("u", x.shape[1]).to(x)
    return sliced_wasserstein(x, truth.x.flatten(1).double(), u / u.norm(dim=1, keepdim=True))


def gaussian_mmd(x: Tensor, y: Tensor, bandwidth: float) -> float:
    """The maximum mean discrepancy under a Gaussian kernel, from all pairs.

    sqrt(mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), k(a, b) = exp(-|a - b|^2 / (2 h^2))

    Args:
        x: (N, D).
        y: (M, D).
        bandwidth: h.

    Returns:
        At least 0.

    Example:
        >>> round(gaussian_mmd(torch.zeros(3, 1), torch.full((3, 1), 100.0), 1.0), 4)
        1.4142

    Source: Gretton et al., "A kernel two-sample test", 2012.
    """

    def k(a: Tensor, b: Tensor) -> float:
        return float((torch.cdist(a, b).square() / (-2 * bandwidth**2)).exp().mean())

    return max(0.0, k(x, x) + k(y, y) - 2 * k(x, y)) ** 0.5


@part
def mmd(
    players: Players,
    data: Mapping[str, Source],
    *,
    draw: Expr = ONE_STEP,
    rows: int = 2_000,
    bandwidth: float = 1.0,
) -> float:
    """Maximum mean discrepancy between samples and data, Gaussian kernel.

    sqrt(E k(x, x') + E k(y, y') - 2 E k(x, y)), k(a, b) = exp(-|a - b|^2 / (2 h^2))

    Args:
        players: the student that is sampled.
        data: the test split has a column x.
        draw: the sampler.
        rows: how many samples and data, at most.
        bandwidth: h, in units of the data.

    Returns:
        At least 0.

    Raises:
        UnknownName: the test split has no column x.

    Source: Gretton et al., "A kernel two-sample test", 2012.
    """
    x, truth = sampled(players, data, draw, rows)
    return gaussian_mmd(x, truth.x.flatten(1).double(), bandwidth)


def energy_gap(x: Tensor, y: Tensor) -> float:
    """The energy distance of two samples, from all pairs.

    sqrt(2 mean|x - y| - mean|x - x'| - mean|y - y'|)

    Args:
        x: (N, D).
        y: (M, D).

    Returns:
        At least 0.

    Example:
        >>> energy_gap(torch.zeros(3, 1), 2 * torch.ones(5, 1))
        2.0

    Source: Székely and Rizzo, "Energy statistics", 2013.
    """

    def far(a: Tensor, b: Tensor) -> float:
        return float(torch.cdist(a, b).mean())

    return max(0.0, 2 * far(x, y) - far(x, x) - far(y, y)) ** 0.5


@part
def energy_distance(players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, rows: int = 2_000) -> float:
    """Energy distance between samples and data.

    sqrt(2 E|x - y| - E|x - x'| - E|y - y'|)

    Args:
        players: the student that is sampled.
        data: the test split has a column x.
        draw: the sampler.
        rows: how many samples and data, at most.

    Returns:
        At least 0.

    Raises:
        UnknownName: the test split has no column x.

    Source: Székely and Rizzo, "Energy statistics", 2013.
    """
    x, truth = sampled(players, data, draw, rows)
    return energy_gap(x, truth.x.flatten(1).double())


@part(higher=True)
def mode_recall(
    players: Players,
    data: Mapping[str, Source],
    *,
    draw: Expr = ONE_STEP,
    rows: int = 10_000,
    share: float = 0.2,
) -> float:
    """The part of the modes that the samples have found, among those that the data have rows of.

    mean_k [mass of the samples within 3 std of mode k >= share * mass of the data in mode k]

    Args:
        players: the student that is sampled.
        data: the test split has columns x and mode; means and deviations of the modes are taken from it.
        draw: the sampler.
        rows: how many samples and data, at most.
        share: the part of its due mass that a mode must hold.

    Returns:
        In [0, 1].

    Raises:
        UnknownName: the test split has no column x, or none `mode`.
    """
    x, truth = sampled(players, data, draw, rows)
    nearest, near, _, due = nearest_mode(x, truth.x.flatten(1).double(), truth.mode)
    held = torch.bincount(nearest[near], minlength=len(due)) / len(x)
    return float((held >= share * due).double().mean())


@part(higher=True)
def mode_quality(players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, rows: int = 10_000) -> float:
    """The part of the samples that lie in some mode.

    mean_i [|x_i - nearest mean| <= 3 std]

    Args:
        players: the student that is sampled.
        data: the test split has columns x and mode; means and deviations of the modes are taken from it.
        draw: the sampler.
        rows: how many samples and data, at most.

    Returns:
        In [0, 1]; the data themselves score 1 - exp(-4.5) = 0.989 in two dimensions.

    Raises:
        UnknownName: the test split has no column x, or none `mode`.
    """
    x, truth = sampled(players, data, draw, rows)
    return float(nearest_mode(x, truth.x.flatten(1).double(), truth.mode)[1].double().mean())
