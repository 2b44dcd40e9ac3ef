"""Losses that keep a student from growing too sure of itself while it imitates.

A student is drawn towards a flattened self: what it, or what it was a little earlier, says at a higher temperature,
chosen token by token. The flattened self is the player `teacher`; a recipe puts the student's own past there.

Shapes: B rows, T tokens, N target tokens, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.kernels.divergence import Divergence, Pair, forward_kl_terms
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.sampled import k2
from limbeck.part import Part, part
from limbeck.parts.divergence import exact, log_probs
from limbeck.parts.token import exact_weight, shared_heads
from limbeck.players import Players

__all__ = ["entropy_gated", "flattened_forward_kl", "flattened_square", "negative_entropy", "over_length"]

HALVINGS = 20
STEEPNESS = 2.0


def _entropy(logits_NK: Tensor, tau_N1: Tensor | float = 1.0) -> Tensor:
    """The entropy (N, 1) of softmax(logits / tau), in nats."""
    return torch.special.entr((logits_NK / tau_N1).softmax(-1)).sum(-1, keepdim=True)


@part
def entropy_gated(
    logits: Tensor,
    *,
    rise: float = 0.5,
    centre: float = 1.2,
    bounds: tuple[float, float] = (1.1, 1.5),
    floor: float = 0.03,
    top: int = 512,
) -> Tensor:
    """The temperature at which a distribution has the entropy that it should rise to: more where it was open anyway.

    tau with H(softmax(z / tau)) = H + rise sigmoid(2 (H - centre)), H = H(softmax(z)), by 20 halvings of the bounds;
    the nearer bound where none between them does, and the lower one where H <= floor

    Args:
        logits: (N, V).
        rise: the largest rise of the entropy, in nats.
        centre: the entropy that rises by half of it.
        bounds: of the temperature.
        floor: the entropy below which a token is taken for a fact.
        top: entropies are those of so many likeliest tokens.

    Returns:
        (N,).

    Example:
        >>> entropy_gated()(torch.tensor([[0.0, 99.0], [0.0, 2.0], [0.0, 0.0]]))
        tensor([1.1000, 1.2224, 1.5000])

    Source: Wang et al., "Learning While Staying Curious", arXiv:2602.02244, section 3.
    """
    z_NK = logits.topk(min(top, logits.shape[-1]), sorted=False).values
    entropy_N1 = _entropy(z_NK)
    aim_N1 = entropy_N1 + rise * torch.sigmoid(STEEPNESS * (entropy_N1 - centre))
    low_N1, high_N1 = (torch.full_like(entropy_N1, bound) for bound in bounds)
    for _ in range(HALVINGS):
        middle_N1 = (low_N1 + high_N1) / 2
        below_N1 = _entropy(z_NK, middle_N1) < aim_N1
        low_N1, high_N1 = middle_N1.where(below_N1, low_N1), high_N1.where(below_N1, middle_N1)
    return ((low_N1 + high_N1) / 2).where(entropy_N1 > floor, bounds[0])[:, 0]


def _towards_flattened(players: Players, batch: Batch, weight: Tensor, pair: Pair) -> Tensor:
    """Sum a pair of the student's logits, the tokens of the batch and the teacher's logits."""
    student, teacher = shared_heads(players.student, players.teacher, batch)
    mask = batch["mask"]
    return fused_sum(student, exact_weight(weight[mask]), pair, batch["tokens"][mask], teacher)


@part
def flattened_square(players: Players, batch: Batch, weight: Tensor, *, temperature: Part = entropy_gated()) -> Tensor:
    """Draw the probability of each token of the batch towards what a flattened teacher gives it.

    sum_t w_t 1/2 (log q_t(y_t) - log softmax(z_t / tau_t)_{y_t})^2, z the teacher's logits

    Args:
        players: `student`, and `teacher`, its own past; nothing flows into that.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        temperature: a part `(logits)` that gives tau (N,).

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.

    Source: Wang et al., "Learning While Staying Curious", arXiv:2602.02244.
    """

    def pair(student: Tensor, token: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        flat = log_probs(exact(teacher) / temperature(teacher)[:, None])
        return k2().told(student, token, flat.gather(-1, token[:, None])[:, 0])

    return _towards_flattened(players, batch, weight, pair)


@part
def flattened_forward_kl(
    players: Players, batch: Batch, weight: Tensor, *, temperature: Part = entropy_gated()
) -> Tensor:
    """Draw the student towards the whole distribution of a flattened teacher.

    sum_t w_t KL(softmax(z_t / tau_t) || q_t), z the teacher's logits

    Args:
        players: `student`, and `teacher`, its own past; nothing flows into that.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        temperature: a part `(logits)` that gives tau (N,).

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
    """

    def pair(student: Tensor, token: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return Divergence(forward_kl_terms)(student, exact(teacher) / temperature(teacher)[:, None])

    return _towards_flattened(players, batch, weight, pair)


def _negative_entropy(student: Tensor) -> tuple[Tensor, Tensor]:
    """The value and its derivative, q (log q + H)."""
    log_q = log_probs(student)
    q = log_q.exp()
    value = -torch.special.entr(q).sum(-1)
    return value, q * (log_q - value[:, None])


@part
def negative_entropy(players: Players, batch: Batch, weight: Tensor) -> Tensor:
    """Keep the student's distributions flat, wherever they are: a bonus for entropy.

    -sum_t w_t H(q_t)

    Args:
        players: `student`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).

    Source: Williams and Peng, "Function Optimization Using Connectionist Reinforcement Learning Algorithms", 1991.
    """
    mask = batch["mask"]
    return fused_sum(players.student(batch, "head").predicting(mask), exact_weight(weight[mask]), _negative_entropy)


@part
def over_length(players: Players, batch: Batch, *, length: int = 8192) -> Tensor:
    """Let every token count alike, in short answers and in long ones: a weight for token losses.

    w_b = (targets of the global batch / rows of the global batch) / length

    Args:
        players: not asked.
        batch: any rows of tokens.
        length: a constant, such as the longest answer that there may be.

    Returns:
        (B,); times the mean over tokens, it gives the mean over rows of their sums, divided by the length.

    Example:
        >>> mask = torch.tensor([[False, True, True, True], [False, True, False, False]])
        >>> over_length(length=4)(None, Batch({"mask": mask}))
        tensor([0.5000, 0.5000])

    Source: Liu et al., "Understanding R1-Zero-Like Training", arXiv:2503.20783, section 3.2.
    """
    mean = batch.counts["tokens"] / batch.counts["rows"]
    return torch.full((batch.size,), mean / length, device=batch.device)
