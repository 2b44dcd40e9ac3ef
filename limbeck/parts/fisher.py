"""The Fisher divergence between noised samples and noised data, estimated without the score of the samples' own law.

What a critic believes of a sample can be traded for the sample itself, in the mean:

    E <u(x_t), mu_fake(x_t)> = E <u(x_t), x>  for every u,

for mu_fake(x_t) is the mean of x given x_t. So the divergence can be written, and differentiated, with fields whose own
dependence on the student is unknown. Gradients flow through what the fields are asked at, not through their weights.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.states import karras_levels, noised
from limbeck.players import Players

__all__ = ["identity_gap", "naive_fisher", "score_identity", "typical"]

LOWER = karras_levels(low=0.0, high=0.8)


def typical(x: Tensor, real: Tensor) -> Tensor:
    """How far the teacher moves a sample, in the mean over its coordinates: what evens the levels out.

    mean|x - mu_real(x_t)|, at least 1e-5, held fixed

    Args:
        x: (B, ...) the samples.
        real: (B, ...) their posterior means under the teacher.

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> typical(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
        tensor([2.])

    Source: Yin et al., arXiv:2311.18828, equation 8; the bound is that of the code of arXiv:2404.04057.
    """
    return (x - real).detach().abs().flatten(1).mean(1).clamp(min=1e-5)


def identity_gap(x: Tensor, real: Tensor, fake: Tensor, alpha: float) -> Tensor:
    """The Fisher divergence at one level by the score projection identity, less a share of its naive estimate.

    <mu_real - mu_fake, (mu_real - x) - alpha (mu_real - mu_fake)>

    Half of (t^2 / (1 - t))^2 E|s_real - s_fake|^2 has the same gradient as its mean at alpha = 1/2, with an exact
    critic; alpha = 0 leaves out what the critic's following of the student would add, larger ones weigh it more.

    Args:
        x: (B, ...) samples.
        real: (B, ...) their posterior means under the teacher.
        fake: (B, ...) the same under the critic.
        alpha: the share.

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> x, real, fake = torch.zeros(1, 1), torch.ones(1, 1), torch.full((1, 1), 3.0)
        >>> identity_gap(x, real, fake, 0.5)  # (|real - x|^2 - |fake - x|^2) / 2
        tensor([-4.])

    Source: Zhou et al., arXiv:2404.04057, the loss of the generator.
    """
    apart = real - fake
    return (apart * ((real - x) - alpha * apart)).flatten(1).sum(1)


@part
def score_identity(players: Players, batch: Batch, *, levels: Expr = LOWER, alpha: float = 1.2) -> Tensor:
    """Descend the Fisher divergence between the noised student and the noised teacher.

    <mu_teacher - mu_critic, (mu_teacher - x) - alpha (mu_teacher - mu_critic)> / sum|x - mu_teacher|, all at x_t

    The denominator is held fixed; gradients flow through x, x_t and what both fields answer there.

    Args:
        players: student, teacher and critic answer "x0"; the fields must be differentiable in x.
        batch: the student's states, columns x and t.
        levels: a level part for the noise under which the two are compared.
        alpha: how much of the naive estimate |mu_teacher - mu_critic|^2 is taken away.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `critic`, or none `teacher`.

    Source: Zhou et al., arXiv:2404.04057, the loss of the generator and its weight, as in its code.
    """
    x = players.student(batch, "x0")
    seen = noised(players, batch, x, levels, "identity")
    real, fake = players.teacher(seen, "x0"), players.critic(seen, "x0")
    return identity_gap(x, real, fake, alpha) / (typical(x, real) * x[0].numel())


@part
def naive_fisher(players: Players, batch: Batch, *, levels: Expr = LOWER) -> Tensor:
    """Descend the Fisher divergence as if the critic did not follow the student: the estimate that is biased.

    |mu_teacher - mu_critic|^2 / sum|x - mu_teacher|, all at x_t; gradients flow through x_t alone

    Args:
        players: student, teacher and critic answer "x0"; the fields must be differentiable in x.
        batch: the student's states, columns x and t.
        levels: a level part for the noise under which the two are compared.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `critic`, or none `teacher`.

    Source: Zhou et al., arXiv:2404.04057, the loss that is shown to fail.
    """
    x = players.student(batch, "x0")
    seen = noised(players, batch, x, levels, "identity")
    real, fake = players.teacher(seen, "x0"), players.critic(seen, "x0")
    return (real - fake).square().flatten(1).sum(1) / (typical(x, real) * x[0].numel())
