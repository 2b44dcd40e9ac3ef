"""Token losses with terms held down, and weights by the place of a token in its answer.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.kernels.clipped import clipped_forward_kl_terms
from limbeck.kernels.divergence import Divergence
from limbeck.part import part
from limbeck.parts.token import token_divergence
from limbeck.players import Players

__all__ = ["clipped_forward_kl", "later"]


@part
def clipped_forward_kl(
    players: Players, batch: Batch, weight: Tensor, *, most: float = 0.05, temperature: float = 1.0
) -> Tensor:
    """Make the student cover what the teacher does, but let no single token of the vocabulary pull much.

    sum_t w_t sum_v min(p_tv log(p_tv / q_tv), most), p_t = softmax(teacher / temperature), q_t likewise

    A term that is cut has no derivative, so where the teacher is far more certain than the student nothing, or even a
    little of the opposite, is learned.

    Args:
        players: `student` and `teacher`.
        batch: columns `tokens` and `mask`.
        weight: (B, T).
        most: the largest term of a token of the vocabulary.
        temperature: of both distributions.

    Raises:
        Mismatch: the players have different tokenizers, or vocabularies of different size.
        BadValue: a bound or a temperature that is not positive, or a temperature other than 1 with a teacher that
            lists.

    Source: Liu et al., "When Are Teacher Tokens Reliable?", arXiv:2605.21606 (the clipped target).
    """
    return token_divergence(players, batch, weight, Divergence(clipped_forward_kl_terms(most), temperature))


@part
def later(
    players: Players, batch: Batch, *, least: float = 0.25, middle: float = 0.3, width: float = 0.1
) -> Tensor:
    """Weigh a token by its place in the answer, late ones more.

    w(u) = least + (1 - least) sigmoid((u - middle) / width), u = (i - 1/2) / |y| for the i-th of |y| targets

    Args:
        players: not asked.
        batch: column `mask`.
        least: the weight that the first tokens come near to.
        middle: the share of the answer at which the weight is halfway.
        width: how gradual the rise is; a negative one makes it a fall.

    Returns:
        (B, T); of meaning only where the mask is true.

    Raises:
        BadValue: a width of 0.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[False, True, True, True]])
        >>> later(middle=0.5)(None, Batch({"mask": mask}))[mask]
        tensor([0.2759, 0.6250, 0.9741])

    Source: Liu et al., "When Are Teacher Tokens Reliable?", arXiv:2605.21606 (the moderate schedule).
    """
    if width == 0:
        raise BadValue("a weight by place needs a width other than 0")
    mask_BT = batch["mask"]
    u_BT = (mask_BT.cumsum(1) - 0.5) / mask_BT.sum(1, keepdim=True).clamp(min=1)
    weight: Tensor = least + (1 - least) * ((u_BT - middle) / width).sigmoid()
    return weight
