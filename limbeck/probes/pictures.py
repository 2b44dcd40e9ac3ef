"""What pictures are judged by, while they are learnt and after: features, and how far a student has gone off.

Small pictures of the shape of a bed's are judged by the classifier that ships with it, others by means and contrasts of
blocks of pixels, in deviations of the data: means alone do not tell a blurred picture from a sharp one. Figures in one
kind of features are comparable with each other, not with those of papers.

Shapes: N samples, C channels, H by W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from limbeck.adapters.pictures import decode
from limbeck.adapters.pipeline import Denoiser
from limbeck.data import Source
from limbeck.part import Expr, Part, part
from limbeck.parts.guidance import Guided
from limbeck.parts.states import few_step, uniform_levels
from limbeck.players import Players
from limbeck.probes.field_game import believed, drawn_once, mean_drift, spread_drift
from limbeck.probes.frechet import features_of, polynomial_mmd

__all__ = ["contrast_drift", "critic_gap", "critic_lag", "critic_loss", "judge_of", "picture_kid", "picture_probes"]

ONE_STEP, MIDDLE = few_step(), uniform_levels(low=0.3, high=0.9)
ROWS = 400
MEANS, EDGES = 8, 4  # blocks along a side, of means and of contrasts
LEAST = 0.02  # of the range of pixels: what varies less is no feature
JUDGES = {(1, 8, 8): "digits"}  # shape to the bed whose classifier reads it


def judge_of(real: Tensor) -> tuple[Callable[[Tensor], Tensor], str]:
    """Features by which pictures are judged beside real ones.

    Args:
        real: (M, C, H, W) in [0, 1].

    Returns:
        A function of pictures (N, C, H, W) in [0, 1] that gives (N, D), and in words which it is.

    Example:
        >>> features, named = judge_of(torch.rand(9, 1, 16, 16))
        >>> tuple(features(torch.zeros(2, 1, 16, 16)).shape), named
        ((2, 96), 'means and contrasts of blocks of pixels')
    """
    shape = tuple(real.shape[1:])
    if shape in JUDGES:
        return features_of(JUDGES[shape], 0.0), f"features of the classifier of {JUDGES[shape]}"
    seen = _blocks(real)
    centre, wide = seen.mean(0), seen.std(0, correction=0).clamp(min=LEAST)
    return lambda x: (_blocks(x) - centre) / wide, "means and contrasts of blocks of pixels"


def _blocks(x: Tensor) -> Tensor:
    """(N, D) means of blocks, and mean absolute differences of neighbours across and down."""

    def pooled(z: Tensor, most: int) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(z, (min(most, z.shape[2]), min(most, z.shape[3]))).flatten(1)

    return torch.cat([pooled(x, MEANS), *(pooled(x.diff(dim=d).abs(), EDGES) for d in (2, 3))], 1)


def _pictures(players: Players, x: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1]: as the pipeline that is there decodes them, else from [-1, 1]."""
    nets = [p.module.net if isinstance(p.module, Guided) else p.module for p in players.values()]
    pipeline = next((net for net in nets if isinstance(net, Denoiser)), None)
    return (x / 2 + 0.5).clamp(0, 1) if pipeline is None else decode(pipeline, x)


@part
def picture_kid(players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, rows: int = ROWS) -> float:
    """Kernel distance between a student's pictures and data, in small features (see `judge_of`).

    E k(x, x') + E k(y, y') - 2 E k(x, y), k(a, b) = (a . b / D + 1)^3

    Args:
        players: the student that is sampled.
        data: the test split has a column x of pictures or latents.
        draw: the sampler.
        rows: how many samples and data, at most.

    Returns:
        The squared distance; 0 on average for equal laws.

    Raises:
        BadValue: fewer than two rows.

    Source: Binkowski et al., arXiv:1801.01401, section 4.
    """
    drawn, truth = drawn_once(players, data, draw, rows)
    with torch.no_grad():
        x, y = (_pictures(players, z).float().cpu() for z in (drawn, truth.x))
    features, _ = judge_of(y)
    return polynomial_mmd(features(x), features(y))


@part
def contrast_drift(players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, rows: int = ROWS) -> float:
    """How much stronger the contrast within a student's pictures is than within data, as a logarithm.

    log(mean_i Var(x_i) / mean_i Var(y_i)), the variance over the pixels of each channel

    Args:
        players: the student that is sampled.
        data: the test split has a column x of pictures or latents.
        draw: the sampler.
        rows: how many samples and data, at most.

    Returns:
        0 for the same contrast; far below it for pictures of one colour.
    """
    drawn, truth = drawn_once(players, data, draw, rows)
    x, y = (z.double().flatten(2).var(2).mean() for z in (drawn, truth.x))
    return float((x / y).clamp(min=1e-20).log())


@part
def critic_loss(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, levels: Expr = MIDDLE, rows: int = ROWS
) -> float:
    """The loss of a critic on the student's samples: how far its belief of them is from what they are.

    mean |x - mu_critic(x_t)|^2, the mean over coordinates

    Args:
        players: the student that is sampled; `critic` and `teacher` answer "x0".
        data: the test split has a column x.
        draw: the sampler.
        levels: a level part.
        rows: how many samples, at most.

    Returns:
        The loss.
    """
    x, fake, _, _ = believed(players, data, draw, levels, rows)
    return float((x - fake).square().mean())


@part
def critic_lag(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, levels: Expr = MIDDLE, rows: int = ROWS
) -> float:
    """The loss of a critic on the student's samples against that of the teacher, from which it began.

    log(mean |x - mu_critic(x_t)|^2 / mean |x - mu_teacher(x_t)|^2)

    Args:
        players: the student that is sampled; `critic` and `teacher` answer "x0".
        data: the test split has a column x.
        draw: the sampler.
        levels: a level part.
        rows: how many samples, at most.

    Returns:
        Below 0 for a critic that follows the student; above 0 its error rules the gradient. In many dimensions this
        stands for the floor, which samples alone cannot tell there.
    """
    x, fake, real, _ = believed(players, data, draw, levels, rows)
    return float(((x - fake).square().mean() / (x - real).square().mean().clamp(min=1e-12)).log())


@part
def critic_gap(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_STEP, levels: Expr = MIDDLE, rows: int = ROWS
) -> float:
    """How far apart critic and teacher are on the student's samples: the root of what the student follows.

    mean |mu_critic(x_t) - mu_teacher(x_t)|^2, the mean over coordinates

    Args:
        players: the student that is sampled; `critic` and `teacher` answer "x0".
        data: the test split has a column x.
        draw: the sampler.
        levels: a level part.
        rows: how many samples, at most.

    Returns:
        0 for a student that matches its teacher.

    Source: Yin et al., arXiv:2311.18828, equation 7.
    """
    _, fake, real, _ = believed(players, data, draw, levels, rows)
    return float((fake - real).square().mean())


def picture_probes(draw: Expr, critic: bool) -> dict[str, Part]:
    """What is measured of a pipeline's student while it learns; all on the same samples.

    Args:
        draw: how it is sampled.
        critic: whether the players have a critic that began as the teacher.

    Returns:
        Name to probe; the one by which a run may stop comes first.

    Example:
        >>> list(picture_probes(few_step(), critic=False))
        ['kid', 'mean drift', 'spread drift', 'contrast drift']
    """
    found = {
        "kid": picture_kid(draw=draw), "mean drift": mean_drift(draw=draw, rows=ROWS),
        "spread drift": spread_drift(draw=draw, rows=ROWS), "contrast drift": contrast_drift(draw=draw),
    }  # fmt: skip
    game = {"critic loss": critic_loss, "critic lag": critic_lag, "critic gap": critic_gap} if critic else {}
    return found | {name: spec(draw=draw) for name, spec in game.items()}
