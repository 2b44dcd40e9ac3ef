"""Reverse KL told from one token a position: estimators as pairs.

With y drawn from the student's own distribution q, r = p(y) / q(y) and KL = KL(q || p):

    estimator       value            its mean        derivative returned          its mean
    k1              -log r           KL              -log r  d log q(y)           d KL
    k2              1/2 (log r)^2    1/2 E(log r)^2  -log r  d log q(y)           d KL
    k3              r - 1 - log r    KL              -log r  d log q(y)           d KL
    k3_literal      r - 1 - log r    KL              (1 - r) d log q(y)           d KL(p || q)

The derivative of k1 itself, d log q(y), has mean 0: as a loss it teaches nothing. That of k3 has the mean of forward
KL's, another divergence. What serves all three is the score-function derivative, which is k2's own, so k1 and k3 only
lend their values. All of it holds while y comes from q as it is now, at the temperature of the loss, with no token cut
away; for other samples every line needs the weight q(y) / (what y was drawn from).

Shapes: N rows, V tokens.

Source: Schulman, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html, for the values; Tang and Munos,
"On a few pitfalls in KL divergence gradient estimation for RL", arXiv:2506.09477, for the derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from limbeck.parts.divergence import log_probs

__all__ = ["Sampled", "k1", "k2", "k3", "k3_literal"]

OfRatio = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sampled:
    """An estimator as a pair of the student's logits (N, V), tokens y (N,) int64, and the teacher's logits (N, V).

    Args:
        value: of log(q(y) / p(y)).
        factor: of log(q(y) / p(y)), to multiply d log q(y).
        temperature: of both distributions.
    """

    value: OfRatio
    factor: OfRatio
    temperature: float = 1.0

    def __call__(self, student: Tensor, token: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the values (N,) and the derivatives (N, V)."""
        return self.told(student, token, log_probs(teacher, self.temperature).gather(-1, token[:, None])[:, 0])

    def told(self, student: Tensor, token: Tensor, logp: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the same from log p(y) (N,), which is all of the teacher that counts.

        Raises:
            BadValue: the temperature is not positive.
        """
        log_q, at = log_probs(student, self.temperature), token[:, None]
        ratio = log_q.gather(-1, at)[:, 0] - logp
        factor = self.factor(ratio)[:, None] / self.temperature
        return self.value(ratio), log_q.exp_().mul_(-factor).scatter_add_(-1, at, factor)


def _itself(ratio: Tensor) -> Tensor:
    return ratio


def _half_square(ratio: Tensor) -> Tensor:
    return ratio.square() / 2


def _bregman(ratio: Tensor) -> Tensor:
    return (-ratio).expm1() + ratio


def _one_minus_r(ratio: Tensor) -> Tensor:
    return -(-ratio).expm1()


def k1(temperature: float = 1.0) -> Sampled:
    """log(q(y) / p(y)): unbiased, of either sign.

    Example:
        >>> import torch
        >>> k1().told(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.25]).log())
        (tensor([0.6931]), tensor([[ 0.3466, -0.3466]]))
    """
    return Sampled(_itself, _itself, temperature)


def k2(temperature: float = 1.0) -> Sampled:
    """1/2 log(q(y) / p(y))^2: biased, never negative; its own derivative is right.

    Example:
        >>> import torch
        >>> k2().told(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.25]).log())
        (tensor([0.2402]), tensor([[ 0.3466, -0.3466]]))
    """
    return Sampled(_half_square, _itself, temperature)


def k3(temperature: float = 1.0) -> Sampled:
    """r - 1 - log r with r = p(y) / q(y): unbiased, never negative; with the derivative of reverse KL.

    Example:
        >>> import torch
        >>> k3().told(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.25]).log())
        (tensor([0.1931]), tensor([[ 0.3466, -0.3466]]))
    """
    return Sampled(_bregman, _itself, temperature)


def k3_literal(temperature: float = 1.0) -> Sampled:
    """The value of k3 with its own derivative, whose mean is that of forward KL: the penalty of GRPO as published.

    Example:
        >>> import torch
        >>> k3_literal().told(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.25]).log())
        (tensor([0.1931]), tensor([[ 0.2500, -0.2500]]))

    Source: Shao et al., "DeepSeekMath", arXiv:2402.03300, equation 4.
    """
    return Sampled(_bregman, _one_minus_r, temperature)
