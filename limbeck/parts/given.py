"""The given answer beside the one that was sampled, for losses that need both.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.parts.token import cross_entropy
from limbeck.players import Players

__all__ = ["given_cross_entropy", "keep_given"]


@part
def keep_given(players: Players, batch: Batch) -> Batch:
    """Put the given answers aside before others take their place.

    Args:
        players: not asked.
        batch: columns `tokens` and `mask`.

    Returns:
        The batch with `given_tokens` and `given_mask` (B, T) besides.
    """
    return batch.with_(given_tokens=batch["tokens"], given_mask=batch["mask"])


@part
def given_cross_entropy(players: Players, batch: Batch, weight: Tensor) -> Tensor:
    """Make the answers that were put aside likely: the language-modelling term beside a loss on sampled answers.

    mean_b mean_t -log q(given_bt)

    Args:
        players: `student`.
        batch: columns `given_tokens`, `given_mask` and `mask`.
        weight: of the sampled tokens, which do not count here.

    Returns:
        (), times the targets of the global batch, by which the loop divides.
    """
    given = batch.with_(tokens=batch["given_tokens"], mask=batch["given_mask"])
    each_B = batch.counts["tokens"] / batch.counts["rows"] / given["mask"].sum(1).clamp(min=1)
    return cross_entropy.fn(players, given, given["mask"] * each_B[:, None])  # type: ignore[no-any-return]
