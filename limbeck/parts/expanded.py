"""Any f-divergence, expanded over levels of noise into weighed Fisher divergences.

As noise is added, an f-divergence between two laws falls at a known rate, so the divergence itself is what is lost on
the way to pure noise, where the laws are one:

    D_f(p || q) = 1/2 int_0^inf E_q C(r) |s_q - s_p|^2 d(sigma^2),  C(r) = r^2 f''(r), r = p / q,

densities and scores those of data plus noise of variance sigma^2 = (t / (1 - t))^2. It can be differentiated without
the score of the student's law depending on the student, like the Fisher divergence of `limbeck.parts.fisher`, whose
case C = 1 is.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.curvature import forward_kl
from limbeck.parts.fisher import typical
from limbeck.parts.jvp import jvp
from limbeck.parts.ratio import density_ratio
from limbeck.parts.states import karras_levels, noised
from limbeck.players import Players

__all__ = ["expanded_divergence", "expanded_gap"]

LOWER, FORWARD = karras_levels(low=0.0, high=0.8), forward_kl()


def expanded_gap(x: Tensor, real: Tensor, fake: Tensor, r: Tensor, curvature: Expr) -> Tensor:
    """The integrand of the expansion at one level, with the gradient of its mean.

    (C(r) - r C'(r)) |d|^2 - 2 C(r) <d, mu_fake - x>,  d = mu_fake - mu_real

    With r differentiated through x_t, and an exact critic, its gradient is that of E C(r) |d|^2; C = 1 is twice the
    score identity loss at alpha = 1/2.

    Args:
        x: (B, ...) samples.
        real: (B, ...) their posterior means under the teacher.
        fake: (B, ...) the same under the critic.
        r: (B,) the teacher's density of x_t over the student's.
        curvature: C, a part of `limbeck.parts.curvature`.

    Returns:
        (B,).

    Example:
        >>> from limbeck.parts.curvature import reverse_kl
        >>> x, real, fake = torch.zeros(1, 1), torch.ones(1, 1), torch.full((1, 1), 3.0)
        >>> expanded_gap(x, real, fake, torch.ones(1), reverse_kl())
        tensor([-8.])

    Source: Wang et al., arXiv:2505.20755, theorem 3.2, in the form that its gradient has at one level.
    """
    d = fake - real
    c, slope = jvp(curvature, (r,), (torch.ones_like(r),))
    return (c - r * slope) * d.square().flatten(1).sum(1) - 2 * c * (d * (fake - x)).flatten(1).sum(1)


@part
def expanded_divergence(
    players: Players,
    batch: Batch,
    *,
    curvature: Expr = FORWARD,
    levels: Expr = LOWER,
    low: float = 0.1,
    high: float = 20.0,
) -> Tensor:
    """Descend an f-divergence between student and teacher by its expansion over levels.

    ((C - r C') |d|^2 - 2 C <d, mu_critic - x>) / (2 sum|x - mu_teacher|), d = mu_critic - mu_teacher, all at x_t

    The ratio and the denominator are held fixed; gradients flow through x, x_t and what both fields answer there.

    Args:
        players: student, teacher and critic answer "x0", the critic the source of the head too, the head "logit";
            `usual` answers "mean", if it is there. The fields must be differentiable in x.
        batch: the student's states, columns x and t.
        curvature: C, a part of `limbeck.parts.curvature`; `reverse_kl()` is the score identity loss at alpha = 1/2.
        levels: a level part for the noise.
        low: the least ratio.
        high: the greatest.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `critic`, `teacher` or `head`.

    Source: Wang et al., arXiv:2505.20755, theorem 3.2, with the weight of arXiv:2404.04057, as in its code.
    """
    x = players.student(batch, "x0")
    seen = noised(players, batch, x, levels, "identity")
    real, fake = players.teacher(seen, "x0"), players.critic(seen, "x0")
    r = density_ratio(players, seen, low, high)
    return 0.5 * expanded_gap(x, real, fake, r, curvature) / (typical(x, real) * x[0].numel())
