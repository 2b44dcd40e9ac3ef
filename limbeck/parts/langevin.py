"""Expectation-maximisation for generators: noise and noised sample are moved together towards the teacher's law.

Given a noised sample, which noise z made it? Under the teacher's law of noised data the pairs (z, e) of latent and
added noise are no longer standard normal; a few steps of Langevin dynamics carry them there (the E-step), and the
generator is fitted to where the samples went (the M-step). What the chain adds at random is taken out of the target
again, so that only the displacement by the scores is learnt.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.states import karras_levels, like
from limbeck.players import Players

__all__ = ["displacement_matching", "langevin_states"]

MIDDLE = karras_levels()


def _pull(players: Players, batch: Batch, z: Tensor, e: Tensor, t: Tensor, latent: bool) -> tuple[Tensor, ...]:
    """The sample of z, t (s_real - s_fake) at its noised version, that carried back to z, and |x - mu_real|."""
    with torch.enable_grad():
        z = z.detach().requires_grad_(latent)
        x = players.student(batch.with_(x=z, t=torch.ones_like(t)), "x0")
    with torch.no_grad():
        here = x.detach()
        seen = batch.with_(x=like(1 - t, z) * here + like(t, z) * e, t=t)
        real, fake = players.teacher(seen, "x0"), players.critic(seen, "x0")
        push = like((1 - t) / t, z) * (real - fake)
        size = (here - real).abs().flatten(1).mean(1)
    back = torch.autograd.grad(x, z, like((1 - t) / t, z) * push)[0] if latent else torch.zeros_like(z)
    return here, push, back, size


@part
def langevin_states(
    players: Players,
    batch: Batch,
    *,
    levels: Expr = MIDDLE,
    steps: int = 16,
    noise_rate: float = 0.16,
    latent_rate: float = 1.6e-5,
    cancel: bool = True,
) -> Batch:
    """Move latent and added noise by Langevin dynamics, and say where the sample should then be: the E-step.

    e <- e + g_e (t (s_real - s_fake) - e) + sqrt(2 g_e) n,  z <- z + g_z ((1 - t) J^T (s_real - s_fake) - z)
    + sqrt(2 g_z) n',  both at x_t = (1 - t) G(z) + t e, from e, z ~ N(0, I)

    The target is (x_t - t (what is left of the first e and of all n)) / (1 - t) after the last step; so one step with
    g_z = 0 displaces the sample by g_e (t^2 / (1 - t)) (s_real - s_fake), the gradient of distribution matching.

    Args:
        players: student, teacher and critic answer "x0"; nothing flows back into any of them.
        batch: rows whose column x is a datum; only its shape is used.
        levels: a level part for the noise, which stays the same over the chain.
        steps: of the chain.
        noise_rate: g_e.
        latent_rate: g_z; 0 leaves z alone and saves its backward passes.
        cancel: whether the noise is taken out of the target.

    Returns:
        The batch with z in x, its level 1 in t, the target in `target`, |x - mu_real| in `scale` (B,), the datum in
        `real`.

    Source: Xie et al., arXiv:2405.16852, reparametrised sampling and noise cancellation.
    """
    shape, dtype = batch.x.shape[1:], batch.x.dtype
    t = levels(players, batch).to(dtype)  # type: ignore[operator]
    z, e = (batch.rng.normal(name, *shape).to(dtype) for name in ("z", "e"))
    held, scale = e, torch.ones_like(t)
    for k in range(steps):
        rng = batch.rng.fold("chain", k)
        _, push, back, size = _pull(players, batch, z, e, t, latent_rate > 0)
        scale = size if k == 0 else scale
        fresh = (2 * noise_rate) ** 0.5 * rng.normal("noise", *shape).to(dtype)
        e, held = e + noise_rate * (push - e) + fresh, (1 - noise_rate) * held + fresh
        if latent_rate:
            z = z + latent_rate * (back - z) + (2 * latent_rate) ** 0.5 * rng.normal("latent", *shape).to(dtype)
    there = torch.ones_like(t)
    x = players.student(batch.with_(x=z, t=there), "x0").detach()
    left = e - held if cancel else e
    target = x + like(t / (1 - t), x) * left
    return batch.with_(real=batch.x, x=z, t=there, target=target, scale=scale)


@part
def displacement_matching(players: Players, batch: Batch) -> Tensor:
    """Fit the generator to where its samples should be: the M-step.

    1/2 |x0_student(z, 1) - target|^2 / sum|x - mu_real|

    Args:
        players: the student answers "x0".
        batch: states of `langevin_states`.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no column `target`.

    Source: Xie et al., arXiv:2405.16852, the M-step, with the weight of arXiv:2311.18828, equation 8.
    """
    x = players.student(batch, "x0")
    size = batch.scale.where(batch.scale > 0, 1.0) * x[0].numel()
    return 0.5 * (x - batch.target).square().flatten(1).sum(1) / size
