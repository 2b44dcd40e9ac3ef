"""How good scenes are: what one sees of them, against what is there to see.

Shapes: N rows, D coordinates, K modes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.latent_editing import refined_view
from limbeck.parts.scene import rendered
from limbeck.players import Players
from limbeck.probes.distribution import sampled
from limbeck.probes.modes import mode_means
from limbeck.probes.rows import first_rows, placed

__all__ = [
    "drawn_accuracy",
    "edit_error",
    "oversaturation",
    "psnr",
    "reference_gap",
    "references_reached",
    "sharpness_error",
    "spread_error",
]

SEEN = rendered()


@part
def spread_error(players: Players, data: Mapping[str, Source], *, draw: Expr = SEEN, rows: int = 10_000) -> float:
    """How far the spread of the samples within a mode is from that of the data.

    |1 - s_samples / s_data|, s^2 the mean square distance of what lies nearest to a mode from its own mean there

    Args:
        players: what is sampled.
        data: the test split has columns x and mode; the means of the modes are taken from it.
        draw: the sampler.
        rows: how many samples and data, at most.

    Returns:
        0 for the right spread, 1 for samples that have all fallen onto one point in each mode.

    Raises:
        UnknownName: the test split has no column x, or none `mode`.
    """
    x, truth = sampled(players, data, draw, rows)
    real = truth.x.flatten(1).double()
    nearest = torch.cdist(x, mode_means(real, truth.mode)[0]).argmin(1)
    return abs(1 - _within(x, nearest) / _within(real, truth.mode))


def _within(x: Tensor, mode: Tensor) -> float:
    """The root mean square distance of samples from the mean of their mode."""
    means, member, _ = mode_means(x, mode)
    return float((x - means[member]).square().sum(1).mean().sqrt())


@part(higher=True)
def drawn_accuracy(players: Players, data: Mapping[str, Source], *, draw: Expr = SEEN, rows: int = 500) -> float:
    """The part of the drawn pictures that a classifier takes for what they should be.

    mean_i [argmax classifier((x_i + 1) / 2) = y_i]

    Args:
        players: what is sampled, and `classifier`, which answers "logits" on pixels in [0, 1].
        data: the test split has columns x, in [-1, 1], and y.
        draw: the sampler.
        rows: how many samples, at most.

    Returns:
        In [0, 1].

    Raises:
        UnknownName: there is no player `classifier`.
    """
    x, truth = sampled(players, data, draw, rows)
    pixels = ((x.view_as(truth.x) + 1) / 2).to(truth.x)
    return float((players.classifier(truth.with_(x=pixels), "logits").argmax(1) == truth.y).double().mean())


def _detail(x: Tensor) -> Tensor:
    """The mean square of what a blur of 3 x 3 pixels takes from pictures (N, C, H, W), (N,)."""
    smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return (x - smooth).square().flatten(1).mean(1)


@part
def sharpness_error(players: Players, data: Mapping[str, Source], *, draw: Expr = SEEN, rows: int = 500) -> float:
    """How far the detail of drawn pictures is from that of real ones.

    |log(mean_i |x_i - blur x_i|^2 / mean_j |y_j - blur y_j|^2)|

    Args:
        players: what is sampled.
        data: the test split has a column x of pictures (N, C, H, W).
        draw: the sampler.
        rows: how many samples and data, at most.

    Returns:
        At least 0; 0.69 for half or twice the energy of the details.

    Raises:
        UnknownName: the test split has no column x.
    """
    x, truth = sampled(players, data, draw, rows)
    ratio = _detail(x.view(truth.x.shape)).mean() / _detail(truth.x.double()).mean()
    return float(ratio.log().abs())


@part
def oversaturation(players: Players, data: Mapping[str, Source], *, draw: Expr = SEEN, rows: int = 500) -> float:
    """How far drawn pixels leave the range of pixels.

    sqrt(mean max(0, |x| - 1)^2)

    Args:
        players: what is sampled.
        data: the test split has a column x of pictures in [-1, 1].
        draw: the sampler.
        rows: how many samples, at most.

    Returns:
        At least 0, in units of half the range.

    Raises:
        UnknownName: the test split has no column x.
    """
    x, _ = sampled(players, data, draw, rows)
    return float((x.abs() - 1).clamp(min=0).square().mean().sqrt())


@part(higher=True)
def psnr(players: Players, data: Mapping[str, Source], *, player: str = "student", peak: float = 1.0) -> float:
    """How well a scene shows what is there, from the cameras or along the rays of the test split.

    10 log10(peak^2 / mean (x_scene - x)^2)

    Args:
        players: the player answers "x0".
        data: the test split has a column x, and what the scene reads.
        player: which one.
        peak: the range of a pixel.

    Returns:
        Decibels.

    Raises:
        UnknownName: no such player.
    """
    rows = torch.arange(len(data["test"]))
    errors = []
    with torch.no_grad():
        for chunk in rows.split(512):
            truth = placed(players, data["test"], chunk)
            errors.append((players[player](truth, "x0") - truth.x).double().square().flatten(1).mean(1).sum())
    return float(10 * (peak**2 * len(rows) / torch.stack(errors).sum()).log10())


@part
def edit_error(players: Players, data: Mapping[str, Source], *, inside: bool = True, outside: bool = True) -> float:
    """How far the edited scene is from what it should have become, in its region, outside, or both.

    sqrt(sum M (x_scene - edited)^2 / sum M), M the region, what is not in it, or everything

    Args:
        players: the scene and, if there is one, the refiner answer "x0".
        data: the test split has the columns `edited` and `region`, of the shape of x, and what the scene reads.
        inside: whether the region counts.
        outside: whether the rest counts.

    Returns:
        At least 0, in units of the data.

    Raises:
        UnknownName: the test split lacks a column.
    """
    truth = first_rows(players, data)
    with torch.no_grad():
        seen = refined_view(players, truth) if "refiner" in players else players.scene(truth, "x0")
        counts = inside * truth.region + outside * (1 - truth.region)
        return float(((seen - truth.edited).square() * counts).sum().div(counts.sum()).sqrt())


def _distances(players: Players, data: Mapping[str, Source]) -> Tensor:
    """How far each particle is from each object over all cameras, root mean square, (P, K)."""
    truth, gaps = first_rows(players, data), []
    with torch.no_grad():
        for i in range(players.scene.particles):
            seen = players.scene(truth.with_(particle=torch.full_like(truth.mode, i)), "x0")
            gaps.append((seen - truth.x).double().square().flatten(1).mean(1))
    return mode_means(torch.stack(gaps, 1), truth.mode)[0].T.sqrt()


@part
def reference_gap(players: Players, data: Mapping[str, Source]) -> float:
    """How far particles are from looking like one and the same object from everywhere.

    mean_i min_k sqrt(mean_camera |g(theta_i, camera) - x_k,camera|^2)

    Args:
        players: the scene answers "x0" and has `particles`.
        data: the test split has every object from every camera: x, its number in `mode`, and what the scene reads.

    Returns:
        At least 0, in units of a pixel.

    Raises:
        UnknownName: the test split has no column x, or none `mode`.
    """
    return float(_distances(players, data).amin(1).mean())


@part(higher=True)
def references_reached(players: Players, data: Mapping[str, Source]) -> float:
    """How many different objects are nearest to some particle.

    |{argmin_k sqrt(mean_camera |g(theta_i, camera) - x_k,camera|^2)}|

    Args:
        players: the scene answers "x0" and has `particles`.
        data: as for `reference_gap`.

    Returns:
        From 1 to the number of objects, or of particles if there are fewer.

    Raises:
        UnknownName: the test split has no column x, or none `mode`.
    """
    return float(len(_distances(players, data).argmin(1).unique()))
