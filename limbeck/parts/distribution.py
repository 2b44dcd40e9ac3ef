"""Distribution matching: move samples along the difference between two scores.

The student is a generator; the teacher is a field of the data; the critic is a field of the student's own samples. All
are asked for "x0", the student on the states of the batch (see `limbeck.parts.states`), the fields on its noised
samples.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.states import karras_levels, like, noised
from limbeck.players import Players

__all__ = ["distribution_matching", "dm_gradient", "fake_denoising", "inject"]

MIDDLE, ALL = karras_levels(), karras_levels(low=0.0, high=1.0)


def dm_gradient(x: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The normalised difference between what two fields believe of the same noised samples.

    g = (mu_fake(x_t) - mu_real(x_t)) / mean|x - mu_real(x_t)|, the mean over the coordinates of a sample

    Since mu = (x_t + sigma_t^2 score) / alpha_t, the numerator is (sigma_t^2 / alpha_t) (score_fake - score_real).

    Args:
        x: (B, ...) the samples.
        real: (B, ...) the posterior mean of x under the teacher.
        fake: (B, ...) the posterior mean of x under the critic.

    Returns:
        (B, ...) the direction to descend; 0 for a sample that the teacher returns unchanged.

    Example:
        >>> import torch
        >>> dm_gradient(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[1.5, 1.0]]))
        tensor([[0.5000, 0.0000]])

    Source: Yin et al., arXiv:2311.18828, equations 7 and 8.
    """
    scale = (x - real).abs().flatten(1).mean(1)
    return (fake - real) / like(scale.where(scale > 0, 1.0), x)


def inject(x: Tensor, g: Tensor) -> Tensor:
    """A loss whose gradient with respect to x is g, whatever g is.

    1/2 ||x - sg[x - g]||^2

    Args:
        x: (B, ...) what is optimised.
        g: (B, ...) the direction; held fixed.

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> inject(x, torch.tensor([[3.0, -1.0]])).sum().backward()
        >>> x.grad
        tensor([[ 3., -1.]])

    Source: Poole et al., arXiv:2209.14988, whose gradient leaves the network out, in the form used for images since.
    """
    return 0.5 * (x - (x - g).detach()).square().flatten(1).sum(1)


@part
def distribution_matching(players: Players, batch: Batch, *, levels: Expr = MIDDLE) -> Tensor:
    """Descend the divergence between the noised student and the noised teacher.

    1/2 ||x - sg[x - g]||^2 / N, g = (mu_critic(x_t) - mu_teacher(x_t)) / mean|x - mu_teacher(x_t)|, N coordinates

    Args:
        players: student, teacher and critic answer "x0".
        batch: the student's states, columns x and t.
        levels: a level part for the noise under which the two are compared.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `critic`, or none `teacher`.

    Source: Yin et al., arXiv:2311.18828, equations 7 and 8; without its regression, arXiv:2405.14867.
    """
    x = players.student(batch, "x0")
    seen = noised(players, batch, x.detach(), levels, "matching")
    real, fake = players.teacher(seen, "x0"), players.critic(seen, "x0")
    return inject(x, dm_gradient(x, real, fake).detach()) / x[0].numel()


@part
def fake_denoising(
    players: Players,
    batch: Batch,
    *,
    levels: Expr = ALL,
    sigma_data: float = 0.5,
) -> Tensor:
    """Fit the critic to the student's samples by denoising them.

    (1 / sigma^2 + 1 / sigma_data^2) mean(mu_critic(x_t) - sg[x])^2, with sigma = t / (1 - t)

    Args:
        players: student and critic answer "x0".
        batch: the student's states, columns x and t.
        levels: a level part for the noise.
        sigma_data: the standard deviation of the data, in its units.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `critic`.

    Source: Karras et al., arXiv:2206.00364 (weight); Yin et al., arXiv:2311.18828, the denoising loss.
    """
    x = players.student(batch, "x0").detach()
    seen = noised(players, batch, x, levels, "denoising")
    weight = ((1 - seen.t) / seen.t).square() + sigma_data**-2
    return weight * (players.critic(seen, "x0") - x).square().flatten(1).mean(1)
