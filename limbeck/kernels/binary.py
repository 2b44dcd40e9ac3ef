"""Two likelihoods of one event, compared as coins: the event comes, or it does not.

Shapes: any, alike.
"""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["binary_kl", "binary_kl_limit", "log1mexp"]

LEAST = 1e-6  # nats that an event is away from certain, at least


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, exact to the last digits at both ends.

    Example:
        >>> import torch
        >>> log1mexp(torch.tensor([-1e-6, -1.0]))
        tensor([-13.8155,  -0.4587])

    Source: Mächler, "Accurately Computing log(1 - exp(-|a|))", 2012.
    """
    near = x > -math.log(2)
    # each side is asked where it is used only, or the gradient of the other would be no number
    of_near, of_far = x.where(near, -1.0), x.where(~near, -1.0)
    return (-of_near.expm1()).log().where(near, (-of_far.exp()).log1p())


def binary_kl(log_p: Tensor, log_q: Tensor, tau: float) -> Tensor:
    """KL between coins of probabilities a = p^(1/tau) and b = q^(1/tau).

    a log(a / b) + (1 - a) log((1 - a) / (1 - b))

    Args:
        log_p: log-probabilities of the teacher, at most 0; those nearer to 0 than 1e-6 count as that.
        log_q: of the student.
        tau: the temperature.

    Example:
        >>> import torch
        >>> binary_kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.5, 0.25]).log(), 1.0)
        tensor([0.0000, 0.1438])

    Source: Minixhofer et al., arXiv:2503.20083, equation 3, less the entropy of a.
    """
    log_a, log_b = (x.clamp(max=-LEAST) / tau for x in (log_p, log_q))
    return log_a.exp() * (log_a - log_b) - log_a.expm1() * (log1mexp(log_a) - log1mexp(log_b))


def binary_kl_limit(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The limit of tau times `binary_kl` for tau to infinity.

    log p - log q + log p (log(-log q) - log(-log p))

    Args:
        log_p: log-probabilities of the teacher, at most 0; those nearer to 0 than 1e-6 count as that.
        log_q: of the student.

    Example:
        >>> import torch
        >>> binary_kl_limit(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -2.0]))
        tensor([0.0000, 0.3069])

    Source: Minixhofer et al., arXiv:2503.20083, appendix.
    """
    log_p, log_q = (x.clamp(max=-LEAST) for x in (log_p, log_q))
    return log_p - log_q + log_p * ((-log_q).log() - (-log_p).log())
