"""Frechet and kernel distances between the features of samples and of data: FID and KID, in features of any classifier.

Both ask a player, or a classifier that ships with a bed, for "features" of pictures. Figures in other features than
those of Inception-v3 are comparable with each other only.

Shapes: N samples, M data, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.data import Source
from limbeck.errors import BadValue, Mismatch
from limbeck.part import Expr, part
from limbeck.parts.states import few_step
from limbeck.players import Players
from limbeck.probes.distribution import sampled
from limbeck.significance import Interval, bootstrap

__all__ = ["features_of", "fid", "frechet", "kid", "kid_interval", "polynomial_mmd"]

ONE_STEP = few_step()
Features = Callable[[Tensor], Tensor]


def frechet(x: Tensor, y: Tensor) -> float:
    """The squared Frechet distance between the normal distributions of two samples.

    |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x^1/2 S_y S_x^1/2)^1/2)

    Args:
        x: (N, D).
        y: (M, D).

    Returns:
        At least 0; above it for finite samples of one law, by about D / N.

    Raises:
        BadValue: fewer than two rows on a side.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 2.0]])
        >>> round(frechet(x, x + torch.tensor([3.0, 4.0])), 3)
        25.0

    Source: Heusel et al., arXiv:1706.08500, equation 6; Dowson and Landau, 1982.
    """
    if min(len(x), len(y)) < 2:
        raise BadValue(f"a Frechet distance needs two rows on each side, got {len(x)} and {len(y)}")
    (m, s), (n, r) = ((z.mean(0), z.T.cov(correction=1).reshape(z.shape[1], -1)) for z in (x.double(), y.double()))
    # the trace of the root is that of the singular values of S_x^1/2 S_y^1/2, which needs no root of a product
    cross = torch.linalg.svdvals(_root(s) @ _root(r)).sum()
    return max(0.0, float((m - n).square().sum() + s.trace() + r.trace() - 2 * cross))


def _root(s: Tensor) -> Tensor:
    """The symmetric root of a covariance."""
    values, vectors = torch.linalg.eigh(s)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """The squared maximum mean discrepancy under a cubic kernel, without bias.

    mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_ij k(x_i, y_j), k(a, b) = (a . b / D + 1)^3

    Args:
        x: (N, D).
        y: (M, D).

    Returns:
        0 on average for samples of one law, so it may be negative.

    Raises:
        BadValue: fewer than two rows on a side.

    Example:
        >>> round(polynomial_mmd(torch.zeros(4, 1), torch.ones(4, 1)), 6)
        7.0

    Source: Binkowski et al., arXiv:1801.01401, section 4; Gretton et al., 2012, lemma 6.
    """
    if min(len(x), len(y)) < 2:
        raise BadValue(f"a kernel distance needs two rows on each side, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()

    def k(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1).pow(3)

    def apart(a: Tensor) -> Tensor:
        kernel = k(a, a)
        return (kernel.sum() - kernel.trace()) / (len(a) * (len(a) - 1))

    return float(apart(x) + apart(y) - 2 * k(x, y).mean())


def kid_interval(x: Tensor, y: Tensor, seed: int = 0) -> Interval:
    """The kernel distance with its 95% interval, over rows that are drawn again from both sides.

    A row that is drawn twice is not compared with itself, so that drawing again brings no bias.

    Args:
        x: (N, D) features of samples.
        y: (M, D) features of data; as many rows as there are pairs are used.
        seed: of the drawing.

    Returns:
        The distance and the ends of the interval.
    """
    x, y = x.double()[: len(y)], y.double()[: len(x)]
    n = len(x)
    kernels = [((a @ b.T / a.shape[1] + 1) ** 3).numpy() for a, b in ((x, x), (y, y), (x, y))]

    def statistic(rows: np.ndarray) -> float:  # type: ignore[type-arg]
        count = np.bincount(rows, minlength=n).astype(np.float64)
        pairs = np.outer(count, count)
        np.fill_diagonal(pairs, 0.0)
        return float(
            ((kernels[0] + kernels[1]) * pairs).sum() / pairs.sum() - 2 * (count @ kernels[2] @ count) / len(rows) ** 2
        )

    found = bootstrap(statistic, n, seed=seed)
    return Interval(polynomial_mmd(x, y), found.low, found.high)


@lru_cache(maxsize=4)
def features_of(bed: str, low: float = -1.0) -> Features:
    """The features of the classifier that ships with a bed.

    Args:
        bed: its key; its player `teacher` answers "features" on pictures in [0, 1].
        low: where the pixels of the samples begin, 0 or -1.

    Returns:
        A function of pictures (N, C, H, W) that gives (N, D).

    Raises:
        UnknownName: no bed of that name.
        Mismatch: pictures that the classifier cannot read.
    """
    net = load_bed(bed).players["teacher"](0).eval()

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        pixels = ((x.float() - low) / (1 - low)).clamp(0, 1)
        try:
            blocks = [net({"x": b}, frozenset({"features"}))["features"].flatten(1) for b in pixels.split(256)]
        except RuntimeError as error:
            shape = tuple(x.shape[1:])
            raise Mismatch(f"the classifier of {bed} cannot read pictures of {shape}: {str(error)[:80]}") from None
        return torch.cat(blocks)

    return features


def _both(players: Players, data: Mapping[str, Source], draw: Expr, rows: int, bed: str) -> tuple[Tensor, Tensor]:
    """Features of samples and of the rows that they are compared with."""
    flat, truth = sampled(players, data, draw, rows)
    x = flat.view_as(truth.x).float()
    if bed:
        features = features_of(bed)
        return features(x.cpu()), features(truth.x.cpu())
    judge = players.judge
    with torch.no_grad():
        answers = [judge(Batch({**dict(truth), "x": z}), "features").flatten(1) for z in (x, truth.x)]
    return answers[0].cpu(), answers[1].cpu()


@part
def fid(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, rows: int = 10_000, bed: str = "digits"
) -> float:
    """Frechet distance between samples and data in the features of a classifier.

    |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^1/2)

    Args:
        players: the student that is sampled; `judge` answers "features" where no bed is named.
        data: the test split has a column x of pictures in [-1, 1].
        draw: the sampler.
        rows: how many samples and data, at most.
        bed: the bed whose classifier judges; empty for the player `judge`.

    Returns:
        The squared distance; in other features than Inception's it is no FID of papers.

    Raises:
        UnknownName: no bed of that name, or no player `judge`.

    Source: Heusel et al., arXiv:1706.08500, equation 6.
    """
    return frechet(*_both(players, data, draw, rows, bed))


@part
def kid(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, rows: int = 2_000, bed: str = "digits"
) -> float:
    """Kernel distance between samples and data in the features of a classifier, without bias.

    E k(x, x') + E k(y, y') - 2 E k(x, y), k(a, b) = (a . b / D + 1)^3

    Args:
        players: the student that is sampled; `judge` answers "features" where no bed is named.
        data: the test split has a column x of pictures in [-1, 1].
        draw: the sampler.
        rows: how many samples and data, at most.
        bed: the bed whose classifier judges; empty for the player `judge`.

    Returns:
        The squared distance; 0 on average for equal laws.

    Raises:
        UnknownName: no bed of that name, or no player `judge`.

    Source: Binkowski et al., arXiv:1801.01401, section 4.
    """
    return polynomial_mmd(*_both(players, data, draw, rows, bed))
