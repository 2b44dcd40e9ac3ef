"""Densities of levels against their closed forms, by SciPy's Kolmogorov-Smirnov test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from limbeck.batch import Batch
from limbeck.part import Part
from limbeck.parts.levels import EDM_LEVELS, grid_levels, logit_normal_levels, u_shaped_levels

BATCH = Batch({"x": torch.zeros(4000, 1)})


def u_cdf(t: np.ndarray, a: float = 3.0) -> np.ndarray:
    return (np.expm1(a * t) + np.exp(a) - np.exp(a * (1 - t))) / (2 * np.expm1(a))


CASES = {
    "logit-normal": (logit_normal_levels(mean=0.5, std=2.0), lambda t: stats.norm(0.5, 2).cdf(np.log(t / (1 - t)))),
    "lognormal": (EDM_LEVELS, lambda t: stats.lognorm(1.2, scale=np.exp(-1.2)).cdf(t / (1 - t))),
    "u-shaped": (u_shaped_levels(steepness=3.0), u_cdf),
}


@pytest.mark.parametrize("name", CASES)
def test_the_density_is_the_stated_one(name: str) -> None:
    levels, cdf = CASES[name]
    assert isinstance(levels, Part)
    t = levels(None, BATCH).double().numpy()
    assert stats.kstest(t, cdf).pvalue > 1e-3


def test_a_grid_gives_each_of_its_levels_alike() -> None:
    t = grid_levels(times=(0.9, 0.3, 0.1))(None, BATCH)
    counts = torch.stack([(t == torch.tensor(v)).sum() for v in (0.9, 0.3, 0.1)])
    assert int(counts.sum()) == 4000 and stats.chisquare(counts.numpy()).pvalue > 1e-3
