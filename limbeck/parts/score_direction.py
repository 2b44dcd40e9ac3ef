"""Score directions: what a frozen field says of how something should change, as losses on any tensor.

The `scene` is whatever is optimised: an image itself, a cloud of splats, a radiance field. It answers "x0" with what
one sees of it in a row (of one particle, from one camera); the teacher's field is asked on that, noised. Every
direction g is turned into a loss whose gradient with respect to what is seen is g (`limbeck.parts.distribution.inject`)
and so reaches the weights of the scene through its renderer alone, never through the teacher.

    score distillation   g = w_t (eps_teacher - e)
    variational          g = w_t (eps_teacher - eps_critic)
    noise-free           g = w_t (domain + scale condition)
    delta denoising      g = w_t M (eps_teacher(x_t, target) - eps_teacher(source_t, y))

with w_t = sigma_t^2 of the variance-preserving path, t^2 / ((1 - t)^2 + t^2) on ours; noise is the same on both.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.distribution import inject
from limbeck.parts.guidance import guided
from limbeck.parts.path import vp_table
from limbeck.parts.states import like
from limbeck.players import Player, Players

__all__ = [
    "critic_denoising",
    "delta_denoising",
    "latent_levels",
    "level_noise",
    "level_weight",
    "noise_free",
    "noised_at",
    "score_distillation",
    "unprompted",
    "variational_score",
]

# the steps of latent diffusion, whose roots rise evenly
LATENT = vp_table((1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0))


@part
def latent_levels(players: Players, batch: Batch, *, low: float = 0.02, high: float = 0.98) -> Tensor:
    """Levels spread evenly over the thousand steps of a latent diffusion model.

    n = 1000 u, u ~ U(low, high); t = r / (1 + r) at the ratio r = sigma_n / alpha_n, beta_n from 0.00085 to 0.012

    Args:
        players: not asked.
        batch: the rows.
        low: the first step, as a share of all.
        high: the last step; a schedule for a range that shrinks.

    Returns:
        (B,).

    Example:
        >>> latent_levels(low=0.2, high=0.2)(None, Batch({"x": torch.zeros(1, 1)}))
        tensor([0.3637])

    Source: Rombach et al., arXiv:2112.10752, and its configuration; the range: Poole et al., arXiv:2209.14988.
    """
    n = 1000 * (low + (high - low) * batch.rng.uniform("level").view(-1))
    ratio = LATENT.sigma(n) / LATENT.alpha(n)
    return ratio / (1 + ratio)


ALL, EVERY = latent_levels(), latent_levels(low=0.0, high=0.999)


def unprompted(field: Player, seen: Batch, prompt: int = 0) -> Tensor:
    """The noise that a field sees under no prompt, or under a prompt of the recipe instead of the row's.

    eps(x_t, t, y = K - prompt)

    Args:
        field: answers "eps", and has `classes`, K.
        seen: the noised rows.
        prompt: 0 for none; n for the n-th class from the end.

    Returns:
        (B, ...).

    Raises:
        BadValue: a field without classes, or without that many.
    """
    classes = int(getattr(field, "classes", 0) or 0)
    if not 0 <= prompt < max(classes, 1) or not classes:
        raise BadValue(
            f"player {field.name!r} has {classes} classes, so none for a direction that needs prompt -{prompt}"
        )
    return field(seen.with_(y=torch.full((seen.size,), classes - prompt, device=seen.device)), "eps")  # type: ignore[no-any-return]


def level_noise(players: Players, batch: Batch, levels: Expr, name: str = "score") -> tuple[Tensor, Tensor]:
    """Draw for each row the level and the noise at which the scene is looked at.

    Args:
        players: those that the level part asks.
        batch: the rows; x has the shape of a datum.
        levels: a level part.
        name: of the draw; two directions under one name see the same levels and noise.

    Returns:
        t (B,), and e in the shape of x.
    """
    rng = batch.rng.fold(name)
    t = levels(players, replace(batch, rng=rng, memo={}))  # type: ignore[operator]
    return t, rng.normal("noise", *batch.x.shape[1:])


def noised_at(batch: Batch, x: Tensor, t: Tensor, e: Tensor) -> Batch:
    """The rows with something else in x, carried to level t by the noise e; nothing flows back to it.

    x_t = (1 - t) x + t e

    Args:
        batch: the rows.
        x: (B, ...).
        t: (B,).
        e: in the shape of x.

    Returns:
        The batch with x_t in `x` and the level in `t`, in the type of x.
    """
    x, t = x.detach(), t.to(x.dtype)
    return batch.with_(x=(1 - like(t, x)) * x + like(t, x) * e.to(x.dtype), t=t)


def level_weight(t: Tensor, x: Tensor) -> Tensor:
    """How much a direction counts at each level: t^2 / ((1 - t)^2 + t^2), with the axes of x.

    Example:
        >>> level_weight(torch.tensor([0.5, 1.0]), torch.zeros(2, 3)).tolist()
        [[0.5], [1.0]]
    """
    return like(t.square() / ((1 - t).square() + t.square()), x)


@part
def score_distillation(players: Players, batch: Batch, *, levels: Expr = ALL, scale: float = 100.0) -> Tensor:
    """Move what is seen of the scene along what the teacher would denoise: one particle seeks a mode.

    1/2 ||x - sg[x - g]||^2, g = w_t (eps_teacher^w(x_t, t, y) - e)

    Args:
        players: the scene answers "x0", the teacher "eps".
        batch: rows with what the scene reads (a camera, a particle) and the prompt y; x has the shape of a datum.
        levels: a level part.
        scale: w, the guidance; 1 for none.

    Returns:
        (B,).

    Raises:
        BadValue: guidance from a teacher without classes.

    Source: Poole et al., arXiv:2209.14988, the gradient of score distillation.
    """
    x = players.scene(batch, "x0")
    t, e = level_noise(players, batch, levels)
    seen = noised_at(batch, x, t, e)
    return inject(x, level_weight(t, x) * (guided(players.teacher, seen, "eps", scale) - e))


@part
def variational_score(
    players: Players, batch: Batch, *, levels: Expr = ALL, scale: float = 7.5, critic_scale: float = 1.0
) -> Tensor:
    """Move what is seen of the scene from where its particles are dense to where the teacher's data are.

    1/2 ||x - sg[x - g]||^2, g = w_t (eps_teacher^w(x_t, t, y) - eps_critic(x_t, t, y, camera))

    Args:
        players: the scene answers "x0", teacher and critic "eps".
        batch: rows with what the scene reads and the prompt y; x has the shape of a datum.
        levels: a level part.
        scale: w, the guidance of the teacher; 1 for none.
        critic_scale: the guidance of the critic.

    Returns:
        (B,).

    Raises:
        BadValue: guidance from a field without classes.
        UnknownName: there is no player `critic`.

    Source: Wang et al., arXiv:2305.16213, the gradient of a particle, with the weight of its code.
    """
    x = players.scene(batch, "x0")
    seen = noised_at(batch, x, *level_noise(players, batch, levels))
    with torch.no_grad():
        own = guided(players.critic, seen, "eps", critic_scale)
    return inject(x, level_weight(seen.t, x) * (guided(players.teacher, seen, "eps", scale) - own))


@part
def critic_denoising(players: Players, batch: Batch, *, levels: Expr = EVERY) -> Tensor:
    """Fit the critic to the noise in what is seen of the scene.

    mean(eps_critic(x_t, t, y, camera) - e)^2

    Args:
        players: the scene answers "x0", the critic "eps".
        batch: rows with what the scene reads and the prompt y; x has the shape of a datum.
        levels: a level part.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `critic`.

    Source: Wang et al., arXiv:2305.16213, the loss of the critic.
    """
    x = players.scene(batch, "x0")
    t, e = level_noise(players, batch, levels, "critic")
    return (players.critic(noised_at(batch, x, t, e), "eps") - e).square().flatten(1).mean(1)


@part
def noise_free(
    players: Players,
    batch: Batch,
    *,
    levels: Expr = ALL,
    scale: float = 7.5,
    split: float = 0.3637,
    negative: int = 1,
) -> Tensor:
    """Move what is seen of the scene into the domain and towards the prompt, and leave the noise out of it.

    g = w_t (d + w (eps(y) - eps(none))), d = eps(none) below the level `split`, eps(none) - eps(negative) from there on

    Args:
        players: the scene answers "x0"; the teacher "eps" under a prompt, under none and under one of bad data.
        batch: rows with what the scene reads and the prompt y; x has the shape of a datum.
        levels: a level part.
        scale: w.
        split: the level from which noise outweighs what eps says of the domain; step 200 of 1000.
        negative: which class, counted from the end, stands for bad data; 0 drops the term above `split`.

    Returns:
        (B,).

    Raises:
        BadValue: a teacher without classes.

    Source: Katzir et al., arXiv:2310.17590, equation 6.
    """
    x = players.scene(batch, "x0")
    seen = noised_at(batch, x, *level_noise(players, batch, levels))
    none, bad = unprompted(players.teacher, seen), unprompted(players.teacher, seen, negative)
    domain = none - bad * like(seen.t >= split, x)
    return inject(x, level_weight(seen.t, x) * (domain + scale * (players.teacher(seen, "eps") - none)))


@part
def delta_denoising(players: Players, batch: Batch, *, levels: Expr = ALL, scale: float = 7.5) -> Tensor:
    """Move what is seen of the scene from the source's prompt to the target's: what both say alike cancels.

    g = w_t M (eps^w(x_t, t, target) - eps^w(source_t, t, y)), the same t and e for both

    Args:
        players: the scene answers "x0", the teacher "eps".
        batch: the source in x and its prompt in y, the prompt to reach in `target` (B,), what the scene reads, and, if
            only a region may change, its mask in `region`, in the shape of x.
        levels: a level part.
        scale: w; 1 for no guidance.

    Returns:
        (B,); its gradient is exactly 0 where source and target are the same.

    Raises:
        UnknownName: the rows have no target.
        BadValue: guidance from a teacher without classes.

    Source: Hertz et al., arXiv:2304.07090, the delta denoising score; with a mask: Park et al., arXiv:2310.02712.
    """
    x = players.scene(batch, "x0")
    t, e = level_noise(players, batch, levels)
    aim, source = noised_at(batch.with_(y=batch.target), x, t, e), noised_at(batch, batch.x, t, e)
    change = guided(players.teacher, aim, "eps", scale) - guided(players.teacher, source, "eps", scale)
    return inject(x, level_weight(t, x) * change * batch.get("region", 1.0))
