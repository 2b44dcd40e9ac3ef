"""Reverse KL with terms held down.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.batch import Batch
from limbeck.kernels.clipped_reverse import clipped_reverse_kl_terms
from limbeck.kernels.divergence import Divergence
from limbeck.part import part
from limbeck.parts.token import token_divergence
from limbeck.players import Players

__all__ = ["clipped_reverse_kl"]


@part
def clipped_reverse_kl(
    players: Players, batch: Batch, weight: Tensor, *, most: float = 0.05, temperature: float = 1.0
) -> Tensor:
    """Make the student do only what the teacher does, but let no single token of the vocabulary pull much.

    sum_t w_t sum_v min(q_tv log(q_tv / p_tv), most), p_t = softmax(teacher / temperature), q_t likewise

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

    Source: "TRACE", arXiv:2605.10194 (pointwise clipping on error spans).
    """
    return token_divergence(players, batch, weight, Divergence(clipped_reverse_kl_terms(most), temperature))
