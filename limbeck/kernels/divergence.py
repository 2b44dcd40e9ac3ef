"""Divergences as pairs: the value and its derivative by the student's logits, from one pass and without autograd.

A pair is a function of the student's logits (N, V) and whatever the loss compares them with; it returns the values
(N,) and the derivatives (N, V). `by_autograd` makes a pair of any differentiable function. The plain forms that these
are tested against, and the conventions, are in `limbeck.parts.divergence`: p is the teacher, q the student.

One equation serves every divergence phi. With h_v = d phi / d log q_v, the derivative by logits z of temperature T is

    d phi / d z_v = (h_v - q_v sum_u h_u) / T,

and a multiple of q in h changes nothing. So a divergence is told by its `Terms`: the value and h, never divided by q.
They are the same whether the outcomes are the tokens of a vocabulary or buckets of them (`Divergence.listed`).

Shapes: N rows, V outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import BadValue
from limbeck.kernels.buckets import Buckets
from limbeck.parts.divergence import check_share, exact, log_probs

__all__ = [
    "Divergence",
    "Pair",
    "Terms",
    "alpha_terms",
    "by_autograd",
    "cross_entropy_pair",
    "f_terms",
    "forward_kl_terms",
    "jsd_terms",
    "listed_cross_entropy_pair",
    "reverse_kl_terms",
    "scaled",
    "skew_forward_kl_terms",
    "skew_reverse_kl_terms",
    "total_variation_terms",
]

Pair = Callable[..., tuple[Tensor, Tensor]]
Terms = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Divergence:
    """A divergence as a pair.

    Args:
        terms: from log p, log q, p and q, each (N, V), to the value (N,) and h = d value / d log q (N, V), up to a
            multiple of q. It may overwrite all but q. A probability that underflows to 0 is no mass.
        temperature: of both distributions.

    Example:
        >>> forward_kl = Divergence(forward_kl_terms)
        >>> forward_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]]))
        (tensor([0.6931]), tensor([[ 0.5000, -0.5000]]))
    """

    terms: Terms
    temperature: float = 1.0

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Compare logits (N, V) of both sides.

        Raises:
            BadValue: the temperature is not positive.
        """
        log_p, p = _both(exact(teacher, self.temperature))
        log_q, q = _both(exact(student, self.temperature))
        value, slope = self._slope(log_p, log_q, p, q)
        return value, slope if self.temperature == 1 else slope.div_(self.temperature)

    def listed(self, student: Tensor, ids: Tensor, logp: Tensor) -> tuple[Tensor, Tensor]:
        """Compare the student's logits (N, V) with a teacher of whom some tokens are listed; the rest is one outcome.

        Args:
            student: (N, V).
            ids: (N, K) integers, distinct tokens where logp is above -inf.
            logp: (N, K), log-probabilities of the teacher softened by the same temperature; -inf for padding.

        Raises:
            BadValue: the temperature is not positive.

        Example:
            >>> logits, listed = torch.zeros(1, 4), (torch.tensor([[2]]), torch.tensor([[0.75]]).log())
            >>> Divergence(forward_kl_terms).listed(logits, *listed)
            (tensor([0.5493]), tensor([[ 0.1667,  0.1667, -0.5000,  0.1667]]))
        """
        buckets = Buckets(exact(student, self.temperature), ids, logp)
        value, slope = self._slope(buckets.log_p, buckets.log_q, buckets.log_p.exp(), buckets.log_q.exp())
        spread = buckets.spread(slope)
        return value, spread if self.temperature == 1 else spread.div_(self.temperature)

    def on_top(self, k: int, *, own: bool = False) -> Pair:
        """Compare logits over the k tokens that are likeliest, and the rest as one more outcome.

        Which tokens these are is taken as given: no gradient goes through the choice.

        Args:
            k: how many.
            own: choose by the student, else by the teacher.

        Returns:
            The pair.

        Raises:
            BadValue: fewer than one.

        Example:
            >>> pair = Divergence(forward_kl_terms).on_top(1)
            >>> pair(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[9.0, 9.0, 99.0]]))
            (tensor([1.0986]), tensor([[ 0.3333,  0.3333, -0.6667]]))
        """
        if k < 1:
            raise BadValue(f"a divergence over the likeliest tokens needs k of at least 1, got {k}")

        def pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
            ids = (student if own else teacher).topk(min(k, student.shape[-1]), sorted=False).indices
            return self.listed(student, ids, log_probs(teacher, self.temperature).gather(-1, ids))

        return pair

    def _slope(self, log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """The value, and h - q sum h."""
        # 0 * (what is not finite) is dropped below as a term without mass, but logits that are nan must not be lost
        nan = 0 * (p[:, 0] + q[:, 0])
        value, h = self.terms(log_p, log_q, p, q)
        return value.add_(nan), h.addcmul_(q, h.sum(-1, keepdim=True), value=-1)


def _both(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits.log_softmax(-1), logits.softmax(-1)


def _weighed(x: Tensor, by: Tensor) -> Tensor:
    """x by in the place of `by`, 0 where x is 0 and `by` infinite."""
    return by.mul_(x).nan_to_num_(0.0, math.inf, -math.inf)


def by_autograd(loss: Callable[..., Tensor]) -> Pair:
    """Make a pair of a differentiable function of the student's logits.

    Args:
        loss: from logits (N, V), and whatever else it is given, to values (N,); rows do not depend on each other.

    Example:
        >>> value, slope = by_autograd(lambda z: z.logsumexp(-1))(torch.zeros(1, 2))
        >>> value, slope
        (tensor([0.6931]), tensor([[0.5000, 0.5000]]))
    """

    def pair(logits: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            value = loss(logits, *given)
            (slope,) = torch.autograd.grad(value.sum(), logits)
        return value.detach(), slope

    return pair


def forward_kl_terms(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q): h = -p.

    Source: Hinton et al., arXiv:1503.02531, equation 2 (the derivative, q - p).
    """
    return _weighed(p, log_p.sub_(log_q)).sum(-1), p.neg_()


def reverse_kl_terms(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q || p): h = q log(q / p)."""
    h = _weighed(q, log_q.sub_(log_p))
    return h.sum(-1), h


def jsd_terms(beta: float) -> Terms:
    """The generalised Jensen-Shannon divergence: h = (1 - beta) q log(q / m), since the terms of m cancel.

    Args:
        beta: the share of the teacher in the mixture m; 0 gives forward KL, 1 reverse KL.

    Raises:
        BadValue: beta outside [0, 1].

    Source: Agarwal et al., arXiv:2306.13649, equation 1; the derivative is worked out here.
    """
    check_share("jsd", "beta", beta)
    if beta in (0, 1):
        return reverse_kl_terms if beta else forward_kl_terms

    def terms(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        # the mixture of probabilities is exact enough: where it underflows, p and q are 0 and no term is kept
        log_m = torch.lerp(q, p, beta).log_()
        of_p = _weighed(p, log_p.sub_(log_m)).sum(-1)
        h = _weighed(q, log_q.sub_(log_m)).mul_(1 - beta)
        return h.sum(-1).add_(of_p, alpha=beta), h

    return terms


def skew_forward_kl_terms(alpha: float) -> Terms:
    """KL(p || m), m = alpha p + (1 - alpha) q: h = -(1 - alpha) q p / m.

    Args:
        alpha: the share of the teacher in m.

    Raises:
        BadValue: alpha outside [0, 1).

    Source: Ko et al., arXiv:2402.03898, section 3; the derivative is worked out here.
    """
    check_share("skew_forward_kl", "alpha", alpha, whole=False)

    def terms(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        m = torch.lerp(q, p, alpha)
        value = _weighed(p, log_p.sub_(m.log())).sum(-1)
        return value, _weighed(q, p.div_(m)).mul_(alpha - 1)

    return terms if alpha else forward_kl_terms


def skew_reverse_kl_terms(alpha: float) -> Terms:
    """KL(q || m), m = (1 - alpha) p + alpha q: h = q (log(q / m) - alpha q / m).

    Args:
        alpha: the share of the student in m.

    Raises:
        BadValue: alpha outside [0, 1).

    Source: Ko et al., arXiv:2402.03898, section 3; the derivative is worked out here.
    """
    check_share("skew_reverse_kl", "alpha", alpha, whole=False)

    def terms(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        m = torch.lerp(p, q, alpha)
        h = _weighed(q, log_q.sub_(m.log()))
        return h.sum(-1), h.sub_(_weighed(q, q.div(m)), alpha=alpha)

    return terms if alpha else reverse_kl_terms


def total_variation_terms(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """1/2 sum |p - q|: h = q sign(q - p) / 2, and 0 where they are equal."""
    beyond = p.sub_(q).neg_()
    return beyond.abs().sum(-1).div_(2), beyond.sign_().mul_(q).div_(2)


def alpha_terms(alpha: float) -> Terms:
    """Amari's alpha-divergence: h = -p^alpha q^(1 - alpha) / alpha.

    Written with expm1 of the nearer end, so that alpha = 1 and alpha = 0 are its limits and not singular.

    Args:
        alpha: the exponent of the teacher; 1 gives forward KL, 0 reverse KL.

    Source: Minka, MSR-TR-2005-173; the derivative is worked out here.
    """
    if alpha in (0, 1):
        return forward_kl_terms if alpha else reverse_kl_terms

    def near_reverse(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        h = _weighed(q, log_p.sub_(log_q).mul_(alpha).expm1_()).div_(-alpha)
        return h.sum(-1).div_(1 - alpha), h

    def near_forward(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        h = _weighed(p, log_q.sub_(log_p).mul_(1 - alpha).expm1_()).div_(-alpha)
        return h.sum(-1).div_(1 - alpha), h.sub_(p, alpha=1 / alpha)

    return near_forward if alpha > 0.5 else near_reverse


def f_terms(generator: Callable[[Tensor], Tensor]) -> Terms:
    """Any f-divergence, sum q f(u) with u = p / q: h = q (f(u) - u f'(u)), f' by autograd.

    Ratios are formed in float64 and held between e^-700 and e^700.

    Args:
        generator: f, convex, differentiable, elementwise, with f(1) = 0.

    Raises:
        BadValue: f(1) is not 0.

    Example:
        >>> kl = Divergence(f_terms(lambda u: torch.xlogy(u, u)))
        >>> kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]]))
        (tensor([0.6931]), tensor([[ 0.5000, -0.5000]]))

    Source: Ali and Silvey, "A General Class of Coefficients of Divergence of One Distribution from Another", 1966.
    """
    if (at_one := generator(torch.ones((), dtype=torch.float64)).item()) != 0:
        raise BadValue(f"the generator of an f-divergence must be 0 at 1, it is {at_one:g}")

    def terms(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        log_p, log_q = log_p.double(), log_q.double()
        u = (log_p - log_q).nan_to_num_(0.0, math.inf, -math.inf).clamp_(-700, 700).exp_()
        f, by_u = by_autograd(generator)(u)
        exact_q = torch.maximum(log_q, log_p.sub_(700)).exp_()
        return (exact_q * f).sum(-1).to(q.dtype), (exact_q * f.sub_(by_u.mul_(u))).to(q.dtype)

    return terms


def scaled(factor: float, terms: Terms) -> Terms:
    """A multiple of a divergence.

    Example:
        >>> pearson = Divergence(scaled(2, alpha_terms(2)))
        >>> pearson(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]]))[0]
        tensor([1.])
    """

    def multiple(*given: Tensor) -> tuple[Tensor, Tensor]:
        value, h = terms(*given)
        return value.mul_(factor), h.mul_(factor)

    return multiple


def cross_entropy_pair(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """-log q_target, whose derivative is q - 1 at the target and q elsewhere; `target` is (N,) int64.

    Example:
        >>> cross_entropy_pair(torch.zeros(1, 2), torch.tensor([0]))
        (tensor([0.6931]), tensor([[-0.5000,  0.5000]]))
    """
    return listed_cross_entropy_pair(student, target[:, None], target.new_zeros(len(target), 1, dtype=student.dtype))


def listed_cross_entropy_pair(student: Tensor, ids: Tensor, logp: Tensor) -> tuple[Tensor, Tensor]:
    """-sum_k w_k log q_idk with w = exp(logp), whose derivative is q sum_k w_k - sum_k w_k onehot(id_k).

    A token may be listed twice. With ids drawn from the teacher, K of them with w = 1 / K, or from another distribution
    with importance weights, its mean is the cross-entropy with the teacher's whole distribution, and its gradient that
    of forward KL. With the K likeliest tokens it is the truncated forward KL, but for the entropy of the list.

    Args:
        student: logits (N, V).
        ids: (N, K) integers.
        logp: (N, K), log w; -inf for padding.

    Example:
        >>> listed_cross_entropy_pair(torch.zeros(1, 2), torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log())
        (tensor([0.6931]), tensor([[0., 0.]]))

    Source: Anshumann et al., "Sparse Logit Sampling", arXiv:2503.16870, for sampled ids.
    """
    log_q, listed = log_probs(student), logp > -torch.inf
    w, at = logp.exp().to(log_q.dtype), ids.long().where(listed, 0)
    value = -(w * log_q.gather(-1, at).where(listed, 0.0)).sum(-1)
    return value, log_q.exp_().mul_(w.sum(-1, keepdim=True)).scatter_add_(-1, at, -w)
