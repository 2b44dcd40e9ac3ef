"""Divergences between two distributions given as logits: the slow, plain forms.

One convention everywhere. p is the teacher, q the student. Forward KL is KL(p || q), reverse KL is KL(q || p). A number
that places a divergence between two others says by its docstring which side it weighs:

    jsd, beta               the share of the teacher p in the mixture: 0 forward KL, 1 reverse KL (the limits)
    skew_forward_kl, alpha  the share of p in the mixture that KL(p || .) looks at: 0 forward KL
    skew_reverse_kl, alpha  the share of q in the mixture that KL(q || .) looks at: 0 reverse KL
    alpha_divergence, alpha the exponent of p: 1 forward KL, 0 reverse KL

Both distributions are softened by the same temperature. Nothing is multiplied by temperature^2: a recipe that wants
Hinton's factor writes it as a weight. Sums are formed in float32 or better; 0 log 0 is 0; a distribution with mass
where the other has none is infinitely far away. `limbeck.kernels.divergence` has the fast forms.

All but the two losses of raw logits are f-divergences, sum_v q_v f(p_v / q_v): they cannot grow when tokens are put
together into buckets, and tokens that the teacher never says count by their total mass alone. So a teacher known by a
list of tokens and the mass of all others is served by the same functions (`bucketed`).

Shapes: V classes or tokens, K listed tokens; leading axes are free.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import BadValue

__all__ = [
    "alpha_divergence",
    "bucketed",
    "check_share",
    "exact",
    "f_divergence",
    "forward_kl",
    "jsd",
    "log_mixture",
    "log_probs",
    "log_rest",
    "logit_cosine",
    "logit_mse",
    "neyman",
    "pearson",
    "relative_entropy",
    "reverse_kl",
    "skew_forward_kl",
    "skew_reverse_kl",
    "squared_hellinger",
    "total_variation",
]


def exact(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Divide logits by the temperature, in float32 or better.

    Raises:
        BadValue: a temperature that is not positive.

    Example:
        >>> exact(torch.tensor([2.0], dtype=torch.bfloat16), temperature=4.0)
        tensor([0.5000])
    """
    if not temperature > 0:
        raise BadValue(f"a divergence needs a temperature above 0, got {temperature:g}")
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide if temperature == 1 else wide / temperature


def log_probs(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Turn logits (..., V) into log-probabilities in float32 or better: log softmax(logits / temperature).

    Raises:
        BadValue: a temperature that is not positive.

    Example:
        >>> log_probs(torch.tensor([0.0, 2.0]), temperature=2.0).exp()
        tensor([0.2689, 0.7311])

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, equation 1.
    """
    return exact(logits, temperature).log_softmax(-1)


def relative_entropy(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Compute KL(a || b) = sum_k a_k (log a_k - log b_k) from log-probabilities; terms with a_k = 0 are 0.

    Args:
        log_a: (..., V), -inf where a is 0.
        log_b: (..., V).

    Returns:
        (...), infinite where a has mass and b has none.

    Example:
        >>> relative_entropy(torch.tensor([0.0, -torch.inf]), torch.tensor([0.5, 0.5]).log())
        tensor(0.6931)

    Source: Kullback and Leibler, "On information and sufficiency", Annals of Mathematical Statistics 22 (1951).
    """
    a = log_a.exp()
    return (a * (log_a - log_b).where(a > 0, 0.0)).sum(-1)


def log_mixture(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """Compute log(beta p + (1 - beta) q), with a gradient of 0 where both are 0.

    Example:
        >>> log_mixture(torch.tensor([0.2, 0.8]).log(), torch.tensor([0.6, 0.4]).log(), 0.5).exp()
        tensor([0.4000, 0.6000])
    """
    nowhere = log_p.isneginf() & log_q.isneginf()
    # logaddexp(-inf, -inf) has no derivative; what stands there is never read, since p and q are 0
    log_p, log_q = log_p.masked_fill(nowhere, 0.0), log_q.masked_fill(nowhere, 0.0)
    return torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))


def check_share(divergence: str, name: str, value: float, *, whole: bool = True) -> None:
    """Refuse a share that is none.

    Args:
        divergence: whose share it is.
        name: what it is called there.
        value: the share.
        whole: whether it may be 1.

    Raises:
        BadValue: a share outside [0, 1], or [0, 1).

    Example:
        >>> check_share("jsd", "beta", 0.5)
    """
    if not 0 <= value <= 1 or (value == 1 and not whole):
        raise BadValue(f"{divergence} needs {name} in [0, 1{']' if whole else ')'}, got {value:g}")


def forward_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute KL(p || q): the student must cover all that the teacher does.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        temperature: of both.

    Returns:
        (...), in nats.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> forward_kl(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 100.0]))
        tensor(0.6931)
    """
    return relative_entropy(log_probs(teacher, temperature), log_probs(student, temperature))


def reverse_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute KL(q || p): the student must do nothing that the teacher does not.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        temperature: of both.

    Returns:
        (...), in nats.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> reverse_kl(torch.tensor([0.0, 100.0]), torch.tensor([0.0, 0.0]))
        tensor(0.6931)

    Source: Gu et al., "MiniLLM", arXiv:2306.08543, equation 1.
    """
    return relative_entropy(log_probs(student, temperature), log_probs(teacher, temperature))


def jsd(student: Tensor, teacher: Tensor, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Compute the generalised Jensen-Shannon divergence, between forward KL (beta -> 0) and reverse KL (beta -> 1).

    beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q

    At the ends this vanishes, but divided by beta it tends to KL(p || q) for beta -> 0, and divided by 1 - beta to
    KL(q || p) for beta -> 1. So the ends give these limits, and the value jumps there while its direction does not.
    TRL's `beta` means the same, inside and at the ends.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        beta: in [0, 1], the share of the teacher in the mixture.
        temperature: of both.

    Returns:
        (...), in nats; at most log 2 for beta = 0.5.

    Raises:
        BadValue: beta outside [0, 1].

    Example:
        >>> far = torch.tensor([[100.0, -100.0], [-100.0, 100.0]])
        >>> jsd(far, far.flip(0)), jsd(far, far)
        (tensor([0.6931, 0.6931]), tensor([0., 0.]))

    Source: Agarwal et al., arXiv:2306.13649, equation 1 and section 2.
    """
    check_share("jsd", "beta", beta)
    if beta in (0, 1):
        return (reverse_kl if beta else forward_kl)(student, teacher, temperature=temperature)
    log_p, log_q = log_probs(teacher, temperature), log_probs(student, temperature)
    log_m = log_mixture(log_p, log_q, beta)
    return beta * relative_entropy(log_p, log_m) + (1 - beta) * relative_entropy(log_q, log_m)


def skew_forward_kl(student: Tensor, teacher: Tensor, *, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    """Compute KL(p || alpha p + (1 - alpha) q): forward KL that a small q cannot drive to infinity.

    alpha is the share of the teacher, so forward KL is alpha = 0; the value is at most -log alpha.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        alpha: in [0, 1); at 1 there is nothing left to learn from.
        temperature: of both.

    Returns:
        (...), in nats.

    Raises:
        BadValue: alpha outside [0, 1).

    Example:
        >>> skew_forward_kl(torch.tensor([100.0, -100.0]), torch.tensor([-100.0, 100.0]), alpha=0.1)
        tensor(2.3026)

    Source: Ko et al., "DistiLLM", arXiv:2402.03898, section 3. Its code leaves out the teacher's entropy, which changes
    the value and not the gradient.
    """
    check_share("skew_forward_kl", "alpha", alpha, whole=False)
    if alpha == 0:
        return forward_kl(student, teacher, temperature=temperature)
    log_p, log_q = log_probs(teacher, temperature), log_probs(student, temperature)
    return relative_entropy(log_p, log_mixture(log_p, log_q, alpha))


def skew_reverse_kl(student: Tensor, teacher: Tensor, *, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    """Compute KL(q || (1 - alpha) p + alpha q): reverse KL that a small p cannot drive to infinity.

    alpha is the share of the student, so reverse KL is alpha = 0; it is `skew_forward_kl` with the sides exchanged.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        alpha: in [0, 1).
        temperature: of both.

    Returns:
        (...), in nats; at most -log alpha.

    Raises:
        BadValue: alpha outside [0, 1).

    Example:
        >>> skew_reverse_kl(torch.tensor([100.0, -100.0]), torch.tensor([-100.0, 100.0]), alpha=0.1)
        tensor(2.3026)

    Source: Ko et al., "DistiLLM", arXiv:2402.03898, section 3.
    """
    check_share("skew_reverse_kl", "alpha", alpha, whole=False)
    if alpha == 0:
        return reverse_kl(student, teacher, temperature=temperature)
    log_p, log_q = log_probs(teacher, temperature), log_probs(student, temperature)
    return relative_entropy(log_q, log_mixture(log_p, log_q, 1 - alpha))


def total_variation(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute 1/2 sum_v |p_v - q_v|: the share of the mass that is in the wrong place, in [0, 1].

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        temperature: of both.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> total_variation(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 100.0]))
        tensor(0.5000)

    Source: Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge Distillation", arXiv:2307.15190.
    """
    return (log_probs(teacher, temperature).exp() - log_probs(student, temperature).exp()).abs().sum(-1) / 2


def alpha_divergence(student: Tensor, teacher: Tensor, *, alpha: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Compute Amari's alpha-divergence, which has forward KL at alpha = 1 and reverse KL at alpha = 0.

    (1 - sum_v p_v^alpha q_v^(1 - alpha)) / (alpha (1 - alpha)); alpha is the exponent of the teacher. 1/2 gives 4 times
    the squared Hellinger distance, 2 half of Pearson's chi^2, -1 half of Neyman's.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        alpha: any number.
        temperature: of both.

    Returns:
        (...); infinite for alpha >= 1 where p has mass and q none, for alpha <= 0 where q has mass and p none.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> alpha_divergence(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 100.0]), alpha=2.0)
        tensor(0.5000)

    Source: Minka, "Divergence measures and message passing", MSR-TR-2005-173.
    """
    if alpha in (0, 1):
        return (forward_kl if alpha else reverse_kl)(student, teacher, temperature=temperature)
    log_p, log_q = log_probs(teacher, temperature), log_probs(student, temperature)
    nowhere = log_p.isneginf() & log_q.isneginf()
    log_p, log_q = log_p.masked_fill(nowhere, 0.0), log_q.masked_fill(nowhere, 0.0)
    overlap = (alpha * log_p + (1 - alpha) * log_q).exp().masked_fill(nowhere, 0.0).sum(-1)
    return (1 - overlap) / (alpha * (1 - alpha))


def squared_hellinger(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute 1/2 sum_v (sqrt p_v - sqrt q_v)^2, in [0, 1].

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        temperature: of both.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> squared_hellinger(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 100.0]))
        tensor(0.2929)
    """
    root_p, root_q = ((log_probs(z, temperature) / 2).exp() for z in (teacher, student))
    return (root_p - root_q).square().sum(-1) / 2


def pearson(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute Pearson's chi^2, sum_v (p_v - q_v)^2 / q_v: the student's probabilities divide.

    It grows like a ratio of probabilities: where q is e^88 times smaller than p^2 it leaves float32 and is infinite.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        temperature: of both.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> pearson(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 100.0]))
        tensor(1.)
    """
    p, q = (log_probs(z, temperature).exp() for z in (teacher, student))
    nowhere = (p == 0) & (q == 0)
    return ((p - q).square() / q.masked_fill(nowhere, 1.0)).sum(-1)


def neyman(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute Neyman's chi^2, sum_v (p_v - q_v)^2 / p_v: the teacher's probabilities divide.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        temperature: of both.

    Raises:
        BadValue: the temperature is not positive.

    Example:
        >>> neyman(torch.tensor([0.0, 100.0]), torch.tensor([0.0, 0.0]))
        tensor(1.)
    """
    return pearson(teacher, student, temperature=temperature)


def f_divergence(
    student: Tensor, teacher: Tensor, generator: Callable[[Tensor], Tensor], *, temperature: float = 1.0
) -> Tensor:
    """Compute sum_v q_v f(p_v / q_v) for a convex f with f(1) = 0.

    u log u is forward KL, -log u reverse KL, |u - 1| / 2 total variation. Ratios are held between e^-700 and e^700.

    Args:
        student: logits (..., V).
        teacher: logits (..., V).
        generator: f, of any tensor, float64; differentiable.
        temperature: of both.

    Returns:
        (...), float64.

    Raises:
        BadValue: f(1) is not 0.

    Example:
        >>> f_divergence(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 100.0]), lambda u: torch.xlogy(u, u))
        tensor(0.6931, dtype=torch.float64)

    Source: Ali and Silvey, "A General Class of Coefficients of Divergence of One Distribution from Another", 1966.
    """
    if (at_one := generator(torch.ones((), dtype=torch.float64)).item()) != 0:
        raise BadValue(f"the generator of an f-divergence must be 0 at 1, it is {at_one:g}")
    log_p, log_q = (log_probs(z, temperature).double() for z in (teacher, student))
    nowhere = log_p.isneginf() & log_q.isneginf()
    log_u = (log_p - log_q).masked_fill(nowhere, 0.0).clamp(-700, 700)
    # where q is too small for its logarithm to be kept apart from p's, it is what the bounded ratio makes it
    q = torch.maximum(log_q, log_p - 700).exp()
    return (q * generator(log_u.exp())).sum(-1)


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean over the vocabulary of (s_v - t_v)^2, of raw logits.

    Adding a number to all logits of one side changes it, though it changes no distribution.

    Args:
        student: logits s (..., V).
        teacher: logits t (..., V), finite.

    Returns:
        (...).

    Example:
        >>> logit_mse(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 3.0]))
        tensor(2.)

    Source: Ba and Caruana, "Do Deep Nets Really Need to be Deep?", arXiv:1312.6184, equation 2.
    """
    return (student - teacher).square().mean(-1)


def logit_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute 1 - cos(s, t) of raw logits: their direction counts, their size does not.

    Args:
        student: logits s (..., V).
        teacher: logits t (..., V), finite.

    Returns:
        (...), in [0, 2].

    Example:
        >>> logit_cosine(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 3.0]))
        tensor(0.)
    """
    return 1 - F.cosine_similarity(student, teacher, dim=-1)


def log_rest(logp: Tensor, log_q: Tensor) -> Tensor:
    """Compute log(1 - sum_k p_k): the mass that a list of log-probabilities leaves to all other tokens.

    Below 8 roundings of the dtype (2^-20 in float32) the list cannot tell it from nothing. It is taken for that much
    where the student has a rest, so that no rounding is infinitely far from it, and for nothing where it has none.

    Args:
        logp: (..., K), -inf for entries that are padding.
        log_q: (...), the rest of the student.

    Returns:
        (...).

    Example:
        >>> log_rest(torch.tensor([0.5, 0.25, 0.0]).log(), torch.tensor(-1.0)).exp()
        tensor(0.2500)
    """
    rest, least = 1 - logp.double().exp().sum(-1), 8 * torch.finfo(logp.dtype).eps
    return rest.clamp(min=least).masked_fill((rest < least) & log_q.isneginf(), 0.0).log().to(logp.dtype)


def bucketed(student: Tensor, ids: Tensor, logp: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Put all tokens that are not listed into one bucket, on both sides.

    q' = (q_id1, ..., q_idK, 1 - sum_k q_idk), p' likewise; both may be given to any divergence of this module. A
    truncated reverse KL whose log-ratio is held fixed, sum_k q'_k [log(q'_k / p'_k)] without gradient through the
    bracket, has the gradient of reverse KL here: what is left out, sum_k of the derivatives of q'_k, is 0 as soon as
    the rest is an outcome too.

    Args:
        student: logits (..., V).
        ids: (..., K), distinct tokens where logp is above -inf.
        logp: (..., K), log-probabilities of the teacher softened by the same temperature; -inf for padding.
        temperature: of the student.

    Returns:
        log q' and log p', each (..., K + 1); the last is the rest.

    Example:
        >>> log_q, log_p = bucketed(torch.zeros(4), torch.tensor([2]), torch.tensor([0.7]).log())
        >>> log_q.exp(), log_p.exp()
        (tensor([0.2500, 0.7500]), tensor([0.7000, 0.3000]))
    """
    log_q, listed = log_probs(student, temperature), logp > -torch.inf
    one_hot = F.one_hot(ids.long().where(listed, 0), student.shape[-1]).bool() & listed[..., None]
    rest = log_q.masked_fill(one_hot.any(-2), -torch.inf).logsumexp(-1, keepdim=True)
    of_listed = log_q.gather(-1, ids.long().where(listed, 0)).masked_fill(~listed, -torch.inf)
    return torch.cat((of_listed, rest), -1), torch.cat((logp, log_rest(logp, rest[..., 0])[..., None]), -1)
