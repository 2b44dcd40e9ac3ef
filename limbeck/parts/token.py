"""Losses between the token distributions of language models, by the fused kernels: logits are never held.

All are asked with the weight of every token (B, T), the mask included, and return the weighted sum over tokens; a token
of weight 0 costs nothing. The conventions of the divergences are in `limbeck.parts.divergence`.

A teacher may be a language model, or a list of some of its tokens and their log-probabilities: then it answers `ids`
and `logp`, each (B, T, K), of which row t is its distribution of token t after the tokens before it, and -inf is
padding. What a list leaves of the mass of 1 is one more outcome, "another token". A player in the role `cached()` is
one, with columns `teacher.ids` and `teacher.logp`; so is one whose net says `lists = True`.

Shapes: B rows, T tokens, N target tokens, K listed tokens.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue, Mismatch
from limbeck.kernels import divergence as kernels
from limbeck.kernels.divergence import Divergence, Pair, by_autograd, cross_entropy_pair, listed_cross_entropy_pair
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.head import TokenHead
from limbeck.part import Part, part
from limbeck.parts.divergence import logit_cosine as plain_cosine
from limbeck.parts.divergence import logit_mse as plain_mse
from limbeck.parts.listed import Narrowed, distribution, listed, lists
from limbeck.players import Player, Players

__all__ = [
    "alpha_divergence",
    "cross_entropy",
    "exact_weight",
    "f_divergence",
    "forward_kl",
    "jeffreys",
    "jsd",
    "listed_cross_entropy",
    "logit_cosine",
    "logit_mse",
    "neyman",
    "of_outcomes",
    "pearson",
    "reverse_kl",
    "sequence_mean",
    "shared_heads",
    "skew_forward_kl",
    "skew_reverse_kl",
    "squared_hellinger",
    "token_divergence",
    "total_variation",
]


def shared_heads(student: Player, teacher: Player, batch: Batch) -> tuple[TokenHead, TokenHead]:
    """Ask two players for their heads at the targets, over the tokens that both have.

    Sizes of one tokenizer family differ by padding and added tokens at the end; both heads are cut to the smaller
    tokenizer.

    Args:
        student: one language model.
        teacher: another.
        batch: columns `tokens` and `mask`.

    Returns:
        Heads of (N, D) rows with one vocabulary, in the order of `tokens[mask]`.

    Raises:
        Mismatch: different tokenizers, or vocabularies of different size without tokenizers to vouch for them.
    """
    heads = [player(batch, "head").predicting(batch["mask"]) for player in (student, teacher)]
    sizes = [head.size for head in heads]
    families = [getattr(player, "family", "") for player in (student, teacher)]
    known = all(families)
    if (known and families[0] != families[1]) or (not known and sizes[0] != sizes[1]):
        why = "have different tokenizers" if known else "differ in vocabulary, and one has no tokenizer to compare"
        raise Mismatch(
            f"{student.name} ({sizes[0]} tokens) and {teacher.name} ({sizes[1]} tokens) {why}; token losses need one "
            "tokenizer family: take a cross-tokenizer recipe, or give both with their tokenizers"
        )
    return heads[0].first(min(sizes)), heads[1].first(min(sizes))


def token_divergence(players: Players, batch: Batch, weight: Tensor, pair: Pair) -> Tensor:
    """Sum a divergence between student and teacher over the targets, weighted.

    Args:
        players: `student`, a language model, and `teacher`, another or one that lists.
        batch: columns `tokens` and `mask` (B, T).
        weight: (B, T), 0 or anything where the mask is false.
        pair: of the logits of both; to compare with lists or with the likeliest tokens, a `Divergence`.

    Returns:
        (), in float32 or better.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the pair cannot compare with lists, or not at its temperature.
        BadData: lists that are no distributions.

    Source: Agarwal et al., arXiv:2306.13649.
    """
    weight_N = exact_weight(weight[batch["mask"]])
    if lists(players.teacher):
        student = players.student(batch, "head").predicting(batch["mask"])
        if of_outcomes(pair).temperature != 1:
            raise BadValue(f"{players.teacher.name} lists probabilities of temperature 1, so the loss has no other")
        return fused_sum(
            student, weight_N, of_outcomes(pair).listed, *distribution(players.teacher, batch, student.size)
        )
    student, teacher = shared_heads(players.student, players.teacher, batch)
    if isinstance(teacher, Narrowed):
        pair = of_outcomes(pair).on_top(teacher.k, own=teacher.own)
    return fused_sum(student, weight_N, pair, teacher)


def of_outcomes(pair: Pair) -> Divergence:
    """A pair that can compare any outcomes, not only the logits of tokens.

    Raises:
        BadValue: it is not one.

    Example:
        >>> of_outcomes(Divergence(kernels.reverse_kl_terms)).temperature
        1.0
    """
    if not isinstance(pair, Divergence):
        raise BadValue(
            "a teacher of listed or likeliest tokens needs a divergence between distributions, not of logits"
        )
    return pair


def exact_weight(weight_N: Tensor) -> Tensor:
    """The weight as a floating-point number: a mask counts as 1 and 0.

    Example:
        >>> import torch
        >>> exact_weight(torch.tensor([True, False]))
        tensor([1., 0.])
    """
    return weight_N if weight_N.is_floating_point() else weight_N.float()


@part
def forward_kl(players: Players, batch: Batch, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Make the student cover what the teacher does.

    sum_t w_t KL(p_t || q_t), p_t = softmax(teacher / temperature), q_t = softmax(student / temperature)

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.

    Source: Hinton et al., arXiv:1503.02531, without the factor temperature^2.
    """
    return token_divergence(players, batch, weight, Divergence(kernels.forward_kl_terms, temperature))


@part
def reverse_kl(players: Players, batch: Batch, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Make the student do only what the teacher does.

    sum_t w_t KL(q_t || p_t), p_t = softmax(teacher / temperature), q_t = softmax(student / temperature)

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.

    Source: Gu et al., "MiniLLM", arXiv:2306.08543, equation 1, for whole sequences; here token by token.
    """
    return token_divergence(players, batch, weight, Divergence(kernels.reverse_kl_terms, temperature))


@part
def jsd(players: Players, batch: Batch, weight: Tensor, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Bring student and teacher together by the generalised Jensen-Shannon divergence.

    sum_t w_t [beta KL(p_t || m_t) + (1 - beta) KL(q_t || m_t)], m_t = beta p_t + (1 - beta) q_t; forward KL at beta 0
    and reverse KL at beta 1

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        beta: the share of the teacher in the mixture, in [0, 1].
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: beta is outside [0, 1], or the temperature is not positive, or not 1 with a teacher that lists.

    Source: Agarwal et al., arXiv:2306.13649, equation 1.
    """
    return token_divergence(players, batch, weight, Divergence(kernels.jsd_terms(beta), temperature))


@part
def skew_forward_kl(
    players: Players, batch: Batch, weight: Tensor, *, alpha: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """Make the student cover what the teacher does, where it can: bounded forward KL.

    sum_t w_t KL(p_t || alpha p_t + (1 - alpha) q_t)

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        alpha: the share of the teacher in the mixture, in [0, 1); 0 is forward KL.
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: alpha is outside [0, 1), or the temperature is not positive, or not 1 with a teacher that lists.

    Source: Ko et al., "DistiLLM", arXiv:2402.03898, section 3.
    """
    return token_divergence(players, batch, weight, Divergence(kernels.skew_forward_kl_terms(alpha), temperature))


@part
def skew_reverse_kl(
    players: Players, batch: Batch, weight: Tensor, *, alpha: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """Make the student do what the teacher does, for the most part: bounded reverse KL.

    sum_t w_t KL(q_t || (1 - alpha) p_t + alpha q_t)

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        alpha: the share of the student in the mixture, in [0, 1); 0 is reverse KL.
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: alpha is outside [0, 1), or the temperature is not positive, or not 1 with a teacher that lists.

    Source: Ko et al., "DistiLLM", arXiv:2402.03898, section 3.
    """
    return token_divergence(players, batch, weight, Divergence(kernels.skew_reverse_kl_terms(alpha), temperature))


@part
def total_variation(players: Players, batch: Batch, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Move the student's mass to where the teacher's is.

    sum_t w_t 1/2 sum_v |p_tv - q_tv|

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.

    Source: Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge Distillation", arXiv:2307.15190.
    """
    return token_divergence(players, batch, weight, Divergence(kernels.total_variation_terms, temperature))


@part
def alpha_divergence(
    players: Players, batch: Batch, weight: Tensor, *, alpha: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """Bring student and teacher together by Amari's alpha-divergence.

    sum_t w_t (1 - sum_v p_tv^alpha q_tv^(1 - alpha)) / (alpha (1 - alpha)); reverse KL at alpha 0 and forward KL at 1

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        alpha: the exponent of the teacher, any number.
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.

    Source: Minka, "Divergence measures and message passing", MSR-TR-2005-173.
    """
    return token_divergence(players, batch, weight, Divergence(kernels.alpha_terms(alpha), temperature))


@part
def squared_hellinger(players: Players, batch: Batch, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Bring the roots of student's and teacher's probabilities together.

    sum_t w_t 1/2 sum_v (sqrt p_tv - sqrt q_tv)^2

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.
    """
    return token_divergence(
        players, batch, weight, Divergence(kernels.scaled(0.25, kernels.alpha_terms(0.5)), temperature)
    )


@part
def pearson(players: Players, batch: Batch, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Make the student cover the teacher at any price.

    sum_t w_t sum_v (p_tv - q_tv)^2 / q_tv

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.
    """
    return token_divergence(players, batch, weight, Divergence(kernels.scaled(2, kernels.alpha_terms(2)), temperature))


@part
def neyman(players: Players, batch: Batch, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Keep the student away from what the teacher does not do, at any price.

    sum_t w_t sum_v (p_tv - q_tv)^2 / p_tv

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: the temperature is not positive, or not 1 with a teacher that lists.
    """
    return token_divergence(players, batch, weight, Divergence(kernels.scaled(2, kernels.alpha_terms(-1)), temperature))


@part
def jeffreys(ratio: Tensor) -> Tensor:
    """The generator of Jeffreys' divergence, KL(p || q) + KL(q || p).

    f(u) = (u - 1) log u

    Args:
        ratio: u = p / q.

    Example:
        >>> import torch
        >>> jeffreys()(torch.tensor([1.0, 2.0]))
        tensor([0.0000, 0.6931])

    Source: Jeffreys, "An invariant form for the prior probability in estimation problems", 1946.
    """
    return (ratio - 1) * ratio.log()


@part
def f_divergence(
    players: Players, batch: Batch, weight: Tensor, *, generator: Part = jeffreys(), temperature: float = 1.0
) -> Tensor:
    """Bring student and teacher together by any f-divergence, told by its generator.

    sum_t w_t sum_v q_tv f(p_tv / q_tv)

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        generator: f, a part `(ratio)`: convex, elementwise and differentiable, f(1) = 0; it is asked in float64,
            between e^-700 and e^700.
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: f(1) is not 0, or the temperature is not positive, or not 1 with a teacher that lists.

    Source: Ali and Silvey, "A General Class of Coefficients of Divergence of One Distribution from Another", 1966.
    """
    return token_divergence(players, batch, weight, Divergence(kernels.f_terms(generator), temperature))


@part
def logit_mse(players: Players, batch: Batch, weight: Tensor) -> Tensor:
    """Bring the student's raw logits s to the teacher's t.

    sum_t w_t mean_v (s_tv - t_tv)^2

    Args:
        players: `student` and `teacher`, language models.
        batch: columns `tokens` and `mask`.
        weight: (B, T).

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: a teacher that lists.

    Source: Ba and Caruana, arXiv:1312.6184, equation 2, for tokens.
    """
    return token_divergence(players, batch, weight, by_autograd(plain_mse))


@part
def logit_cosine(players: Players, batch: Batch, weight: Tensor) -> Tensor:
    """Bring the direction of the student's raw logits s to that of the teacher's t.

    sum_t w_t (1 - cos(s_t, t_t))

    Args:
        players: `student` and `teacher`, language models.
        batch: columns `tokens` and `mask`.
        weight: (B, T).

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: a teacher that lists.
    """
    return token_divergence(players, batch, weight, by_autograd(plain_cosine))


@part
def cross_entropy(players: Players, batch: Batch, weight: Tensor) -> Tensor:
    """Make the tokens of the batch likely under the student.

    sum_t -w_t log q_t(y_t)

    Args:
        players: `student`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
    """
    mask = batch["mask"]
    head = players.student(batch, "head").predicting(mask)
    return fused_sum(head, exact_weight(weight[mask]), cross_entropy_pair, batch["tokens"][mask])


@part
def listed_cross_entropy(players: Players, batch: Batch, weight: Tensor) -> Tensor:
    """Make the tokens that the teacher lists likely under the student, each by its weight.

    sum_t -w_t sum_k exp(logp_tk) log q_t(ids_tk)

    With ids drawn from the teacher and logp = -log K, its gradient has the mean of forward KL's: a cache of a few
    sampled tokens teaches the whole distribution. With the likeliest ids it is forward KL cut off after them.

    Args:
        players: `student`, and `teacher`, which lists; a token may be listed twice, and weights need not sum to 1.
        batch: columns `tokens` and `mask`.
        weight: (B, T).

    Raises:
        Mismatch: lists for other tokens than those of the batch, or of tokens that the student does not have.
        BadData: a logp that is infinite or not a number.

    Source: Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", arXiv:2503.16870.
    """
    student = players.student(batch, "head").predicting(batch["mask"])
    given = listed(players.teacher, batch, student.size)
    return fused_sum(student, exact_weight(weight[batch["mask"]]), listed_cross_entropy_pair, *given)


@part
def sequence_mean(players: Players, batch: Batch) -> Tensor:
    """Weigh every row alike, however long its answer: a weight for token losses.

    w_b = (targets of the global batch / rows of the global batch) / targets of row b

    Args:
        players: not asked.
        batch: column `mask`.

    Returns:
        (B,); times the mean over tokens, it gives the mean over rows of their means over tokens.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[False, True, True, True], [False, True, False, False]])
        >>> sequence_mean()(None, Batch({"mask": mask}))
        tensor([0.6667, 2.0000])
    """
    targets_B = batch["mask"].sum(1).clamp(min=1)
    return batch.counts["tokens"] / batch.counts["rows"] / targets_B
