"""Losses between the token distributions of language models, by the fused kernels: logits are never held.

All are asked with the weight of every token (B, T), the mask included, and return the weighted sum over tokens. The
conventions of the divergences are in `limbeck.parts.divergence`.

Shapes: B rows, T tokens, N target tokens.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import Mismatch
from limbeck.kernels.divergence import Pair, cross_entropy_pair, forward_kl_pair, jsd_pair, reverse_kl_pair
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.head import TokenHead
from limbeck.part import part
from limbeck.players import Player, Players

__all__ = ["cross_entropy", "forward_kl", "jsd", "reverse_kl", "sequence_mean", "shared_heads", "token_divergence"]


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
        players: `student` and `teacher`, language models.
        batch: columns `tokens` and `mask` (B, T).
        weight: (B, T), 0 or anything where the mask is false.
        pair: the divergence (see `limbeck.kernels.divergence`).

    Returns:
        (), in float32 or better.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.

    Source: Agarwal et al., arXiv:2306.13649.
    """
    student, teacher = shared_heads(players.student, players.teacher, batch)
    return fused_sum(student, _exact(weight[batch["mask"]]), pair, teacher)


def _exact(weight_N: Tensor) -> Tensor:
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
        BadValue: the temperature is not positive.

    Source: Hinton et al., arXiv:1503.02531, without the factor temperature^2.
    """
    return token_divergence(players, batch, weight, partial(forward_kl_pair, temperature=temperature))


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
        BadValue: the temperature is not positive.

    Source: Gu et al., "MiniLLM", arXiv:2306.08543, equation 1, for whole sequences; here token by token.
    """
    return token_divergence(players, batch, weight, partial(reverse_kl_pair, temperature=temperature))


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
        BadValue: beta is outside [0, 1], or the temperature is not positive.

    Source: Agarwal et al., arXiv:2306.13649, equation 1.
    """
    return token_divergence(players, batch, weight, partial(jsd_pair, beta=beta, temperature=temperature))


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
    return fused_sum(head, _exact(weight[mask]), cross_entropy_pair, batch["tokens"][mask])


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
