"""Diffusion in the unit cube: noise is reflected at the walls, so that states are always possible data.

Brownian motion that is reflected at 0 and 1 in every coordinate carries any data to the even law of the cube. Its
transition from x0 in one coordinate is known twice, by images of x0 behind the walls and by waves between them,

    p(x | x0) = sum_k N(x; 2k + x0, s^2) + N(x; 2k - x0, s^2)
              = 1 + 2 sum_{k>0} exp(-(k pi s)^2 / 2) cos(k pi x) cos(k pi x0),

and each is summed where a few terms give all digits: images up to s = 0.4, waves from there. This is no Gaussian path:
a state is not rescaled, and its noise s stands in the column `sigma`. A player answers "score" on x and sigma, the
gradient of the log density of noised data. It vanishes across the walls, so the flow stays inside by itself; a guided
score (`limbeck.parts.guidance.Guided`) may push a sample out, and the walls give it back: nothing is clipped.

Shapes: B rows; a datum has any shape, its values in [0, 1].
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue
from limbeck.part import part
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = [
    "falling_noise",
    "reflect",
    "reflected_flow",
    "reflected_log_density",
    "reflected_matching",
    "reflected_sample",
    "reflected_score",
    "reflected_states",
]

IMAGES_BELOW = 0.4
"""The noise up to which images are summed: there both sums have all digits of float64."""
IMAGES, WAVES = torch.arange(-2, 3), torch.arange(1, 8)


def reflect(x: Tensor) -> Tensor:
    """Fold the line into [0, 1], as a wall at either end does.

    1 - |1 - (x mod 2)|; a Brownian motion becomes a reflected one

    Args:
        x: (...).

    Returns:
        (...).

    Example:
        >>> reflect(torch.tensor([0.25, -0.25, 1.25, 2.5]))
        tensor([0.2500, 0.2500, 0.7500, 0.5000])

    Source: Lou and Ermon, "Reflected Diffusion Models", arXiv:2304.04740, where walls are hit by such steps.
    """
    return 1 - (1 - x.remainder(2)).abs()


def _images(x: Tensor, x0: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and score by images."""
    shift = 2 * IMAGES.to(x)
    at = torch.cat((shift + x0[..., None], shift - x0[..., None]), -1)
    z = (x[..., None] - at) / s[..., None]
    log = -0.5 * z.square() - s[..., None].log() - 0.5 * math.log(2 * math.pi)
    return log.logsumexp(-1), -(log.softmax(-1) * z).sum(-1) / s


def _waves(x: Tensor, x0: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and score by waves."""
    k = math.pi * WAVES.to(x)
    weight = 2 * (-0.5 * (k * s[..., None]).square()).exp() * (k * x0[..., None]).cos()
    p = 1 + (weight * (k * x[..., None]).cos()).sum(-1)
    return p.log(), -(weight * k * (k * x[..., None]).sin()).sum(-1) / p


def _transition(x: Tensor, x0: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    if not bool((sigma > 0).all()):
        raise BadValue(f"a state needs noise above 0, got sigma = {float(sigma.min())}")
    wide = torch.promote_types(x.dtype, torch.float32)  # half of a number's digits is too few for sums of waves
    x, x0 = x.to(wide), x0.to(wide)
    s = like(sigma, x).expand_as(x)
    near = s < IMAGES_BELOW
    pairs = zip(_images(x, x0, s.clamp(max=IMAGES_BELOW)), _waves(x, x0, s.clamp(min=IMAGES_BELOW)), strict=True)
    log, score = (torch.where(near, a, b) for a, b in pairs)
    return log, score


def reflected_log_density(x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """The log density of reflected Brownian motion from x0.

    sum_i log p(x_i | x0_i, s)

    Args:
        x: (B, ...) states in [0, 1].
        x0: (B, ...) where they come from.
        sigma: (B,) s, the noise of the motion without walls.

    Returns:
        (B,).

    Raises:
        BadValue: noise that is not above 0.

    Example:
        >>> far = torch.tensor([9.0])  # the even law
        >>> reflected_log_density(torch.full((1, 2), 0.3), torch.zeros(1, 2), far)
        tensor([0.])

    Source: Lou and Ermon, arXiv:2304.04740, strategies I and II of the score of the cube.
    """
    return _transition(x, x0, sigma)[0].flatten(1).sum(1)


def reflected_score(x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """The gradient of `reflected_log_density` along x, in closed form; 0 across the walls.

    Args:
        x: (B, ...) states in [0, 1].
        x0: (B, ...) where they come from.
        sigma: (B,) s, the noise of the motion without walls.

    Returns:
        (B, ...).

    Raises:
        BadValue: noise that is not above 0.

    Example:
        >>> x0 = torch.tensor([[0.5, 0.5]])
        >>> reflected_score(torch.tensor([[0.5, 0.4]]), x0, torch.tensor([0.1]))
        tensor([[-0.0000, 10.0000]])

    Source: Lou and Ermon, arXiv:2304.04740, strategies I and II of the score of the cube.
    """
    return _transition(x, x0, sigma)[1].to(x.dtype)


@part
def reflected_states(players: Players, batch: Batch, *, low: float = 0.01, high: float = 5.0) -> Batch:
    """Data under reflected noise of any strength.

    s = low^(1 - u) high^u, u ~ U(0, 1);  x = reflect(x0 + s z)

    Args:
        players: not asked.
        batch: rows whose column x is a datum in [0, 1].
        low: the least noise.
        high: the most; at 1 already nothing but the even law is left.

    Returns:
        The batch with the state in x, its noise in `sigma`, and the datum in `real`.

    Raises:
        BadValue: noise that does not rise from above 0.
        BadData: a datum outside the cube.

    Source: Lou and Ermon, arXiv:2304.04740, whose noise rises geometrically.
    """
    _rising(low, high)
    x0 = batch.x
    if bool(((x0 < 0) | (x0 > 1)).any()):
        raise BadData(f"data in the unit cube lie in [0, 1], got {float(x0.min()):.4g} to {float(x0.max()):.4g}")
    sigma = (low * (high / low) ** batch.rng.uniform("level").view(-1)).to(x0.dtype)
    z = batch.rng.normal("noise", *x0.shape[1:]).to(x0.dtype)
    return batch.with_(x=reflect(x0 + like(sigma, x0) * z), sigma=sigma, real=x0)


def _rising(low: float, high: float) -> None:
    if not 0 < low < high:
        raise BadValue(f"noise must rise from above 0, got low = {low}, high = {high}")


@part
def reflected_matching(players: Players, batch: Batch) -> Tensor:
    """The student's score is that of the transition from each datum; on average over data, that of the noised law.

    s^2 |score(x, s) - grad log p(x | x0, s)|^2

    Args:
        players: the student answers "score" on columns x, sigma.
        batch: states of `reflected_states`.

    Returns:
        (B,).

    Raises:
        UnknownName: the batch has no column `sigma` or `real`.

    Source: Lou and Ermon, arXiv:2304.04740, constrained denoising score matching, weighted by s^2.
    """
    wanted = reflected_score(batch.x, batch.real, batch.sigma)
    return (like(batch.sigma, batch.x) * (players.student(batch, "score") - wanted)).square().flatten(1).sum(1)


def falling_noise(steps: int, low: float = 0.01, high: float = 5.0) -> tuple[float, ...]:
    """The noise of a sampler: it falls by the same factor in every step.

    Args:
        steps: how many.
        low: the last.
        high: the first.

    Returns:
        steps + 1 levels of noise.

    Raises:
        BadValue: fewer than one step, or noise that does not rise from `low` above 0 to `high`.

    Example:
        >>> [round(s, 4) for s in falling_noise(2, 0.01, 1.0)]
        [1.0, 0.1, 0.01]

    Source: Lou and Ermon, arXiv:2304.04740, whose noise rises geometrically.
    """
    _rising(low, high)
    if steps < 1:
        raise BadValue(f"a sampler needs at least one step, got steps = {steps}")
    return tuple(high * (low / high) ** (i / steps) for i in range(steps + 1))


HUNDRED = falling_noise(100)


def _carried(players: Players, batch: Batch, noise: tuple[float, ...], share: float) -> Tensor:
    """Reflected Euler steps from the even law; the share of the noise that is drawn anew is 1 or 0."""
    x = batch.rng.uniform("z", *batch.x.shape[1:]).to(batch.x.dtype)
    for i, (s, r) in enumerate(pairwise(noise)):
        sigma = torch.full((batch.size,), s, dtype=x.dtype, device=x.device)
        score = players.student(batch.with_(x=x, sigma=sigma), "score")
        spent = s**2 - r**2
        z = batch.rng.fold(i).normal("step", *x.shape[1:]).to(x.dtype)
        x = reflect(x + (1 + share) / 2 * spent * score + (share * spent) ** 0.5 * z)
    return x


@part
def reflected_sample(players: Players, batch: Batch, *, noise: tuple[float, ...] = HUNDRED) -> Tensor:
    """Sample the student by the reversed motion, which is reflected too: Euler and Maruyama's steps.

    x <- reflect(x + (s^2 - r^2) score(x, s) + sqrt(s^2 - r^2) z), from the even law; r is the next noise

    Args:
        players: the student answers "score" on columns x, sigma.
        batch: rows whose column x has the shape of a datum.
        noise: falling levels; `falling_noise(n)`.

    Returns:
        (B, ...) samples in [0, 1].

    Source: Lou and Ermon, arXiv:2304.04740, the reversed reflected equation.
    """
    return _carried(players, batch, noise, 1.0)


@part
def reflected_flow(players: Players, batch: Batch, *, noise: tuple[float, ...] = HUNDRED) -> Tensor:
    """Sample the student by the flow that has the same laws on its way, without fresh noise: Euler's steps.

    x <- reflect(x + (s^2 - r^2) / 2 score(x, s)), from the even law; the flow stays inside, its steps may not

    Args:
        players: the student answers "score" on columns x, sigma.
        batch: rows whose column x has the shape of a datum.
        noise: falling levels; `falling_noise(n)`.

    Returns:
        (B, ...) samples in [0, 1].

    Source: Lou and Ermon, arXiv:2304.04740, the probability flow of the reflected equation.
    """
    return _carried(players, batch, noise, 0.0)
