"""Whether a class was forgotten, and what the others suffered.

Every probe samples the student as in `limbeck.probes.distribution`, each row asked for the class of its datum.

Shapes: N samples, D coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.data import Source
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.states import few_step
from limbeck.players import Players
from limbeck.probes.distribution import sampled, sliced_wasserstein
from limbeck.rng import Rng

__all__ = ["override_distance", "still_drawn"]

ONE_STEP = few_step()


@part
def still_drawn(
    players: Players, data: Mapping[str, Source], *, classes: tuple[int, ...] = (0,), draw: Expr = ONE_STEP,
    rows: int = 4_000,
) -> float:  # fmt: skip
    """The share of the samples asked for a class that show it all the same.

    mean_i [the datum nearest to x_i is of class y_i], over y_i in classes

    Args:
        players: the student that is sampled.
        data: the test split has columns x and y.
        classes: those to be forgotten.
        draw: the sampler.
        rows: how many samples, and data to compare them with, at most.

    Returns:
        In [0, 1].

    Raises:
        BadValue: the test split has no row of these classes.

    Source: the unlearning accuracy of Chen et al., arXiv:2409.11219, is 1 less this; here the nearest datum judges.
    """
    x, truth = sampled(players, data, draw, rows)
    asked = (truth.y[:, None] == torch.tensor(classes, device=truth.y.device)).any(1)
    if not asked.any():
        raise BadValue(f"the test split has no row of the classes {classes}")
    nearest = torch.cdist(x[asked], truth.x.flatten(1).double()).argmin(1)
    return float((truth.y[nearest] == truth.y[asked]).double().mean())


@part
def override_distance(
    players: Players, data: Mapping[str, Source], *, forget: tuple[int, ...] = (0,), override: int = 1,
    draw: Expr = ONE_STEP, rows: int = 10_000, projections: int = 64,
) -> float:  # fmt: skip
    """Distance to what is wanted: the remaining classes as they were, the safe class in place of the forgotten.

    mean_y SW2(samples asked for y, data of class y'),  y' = override for y in forget, else y

    Args:
        players: the student that is sampled.
        data: the test split has columns x and y.
        forget: the classes to forget.
        override: the safe class.
        draw: the sampler.
        rows: how many samples and data, at most.
        projections: the number of directions.

    Returns:
        The distance, in units of the data.

    Raises:
        UnknownName: the test split has no column x, or none y.
        BadValue: it has no row of the class that takes the others' place.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015.
    """
    x, truth = sampled(players, data, draw, rows)
    real = truth.x.flatten(1).double()
    u = Rng(("directions",), torch.arange(projections)).normal("u", x.shape[1]).to(x)
    u = u / u.norm(dim=1, keepdim=True)

    def apart(y: int) -> float:
        wanted = real[truth.y == (override if y in forget else y)]
        drawn = x[truth.y == y]
        if not len(wanted):
            raise BadValue(f"the test split has no row of class {override}, which takes the place of {y}")
        n = min(len(wanted), len(drawn))
        return sliced_wasserstein(drawn[:n], wanted[:n], u)

    classes: Tensor = truth.y.unique()
    return sum(map(apart, classes.tolist())) / len(classes)
