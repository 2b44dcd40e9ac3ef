"""Shallow players cut from deep ones: which layers are kept, and the player that is made of them.

Embeddings, norms and head are copied whole; layers are numbered from 0, the nearest to the input. A choice is a part
`(layers, kept)`: which `kept` of `layers` layers stay, in order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Part, part
from limbeck.players import Players

__all__ = ["angles", "both_ends", "closest_block", "even", "first", "last", "max_gap", "truncated"]


@part
def first(layers: int, kept: int) -> list[int]:
    """Keep the layers next to the input.

    0, ..., k - 1

    Example:
        >>> first()(6, 3)
        [0, 1, 2]
    """
    return list(range(kept))


@part
def last(layers: int, kept: int) -> list[int]:
    """Keep the layers next to the output.

    L - k, ..., L - 1

    Example:
        >>> last()(6, 3)
        [3, 4, 5]
    """
    return list(range(layers - kept, layers))


@part
def both_ends(layers: int, kept: int) -> list[int]:
    """Keep as many layers next to the input as next to the output; of an odd number one more next to the input.

    0, ..., ceil(k/2) - 1 and L - floor(k/2), ..., L - 1

    Example:
        >>> both_ends()(6, 3), both_ends()(6, 4)
        ([0, 1, 5], [0, 1, 4, 5])
    """
    return [*range(math.ceil(kept / 2)), *range(layers - kept // 2, layers)]


@part
def even(layers: int, kept: int) -> list[int]:
    """Keep one layer of every block of equal size, the first of it.

    floor(i L / k), i = 0, ..., k - 1

    Example:
        >>> even()(6, 3), even()(6, 4)
        ([0, 2, 4], [0, 1, 3, 4])
    """
    return [i * layers // kept for i in range(kept)]


@part
def max_gap(layers: int, kept: int) -> list[int]:
    """Keep layers as far from each other as can be, the first and the last among them.

    round(i (L - 1) / (k - 1)), i = 0, ..., k - 1

    Example:
        >>> max_gap()(6, 3), max_gap()(6, 1)
        ([0, 2, 5], [0])
    """
    return [round(i * (layers - 1) / max(1, kept - 1)) for i in range(kept)]


@part
def truncated(players: Players, batch: Batch, *, choice: Part = both_ends(), share: float = 0.5) -> nn.Module:
    """Build a player from some of the teacher's layers.

    k = max(1, round(share L)) layers of L

    Args:
        players: the teacher, of a transformers model; it stays as it is.
        batch: not read.
        choice: which layers, a part `(layers, kept)`.
        share: of the layers, in (0, 1].

    Raises:
        BadValue: a share outside (0, 1], or a teacher without layers.

    Source: Jha et al., "Large Language Model Distillation Doesn't Need a Teacher", arXiv:2305.14864.
    """
    from limbeck.adapters.depth import layers_of  # recipes name this part: reading them needs no model library
    from limbeck.adapters.surgery import shrink

    if not 0 < share <= 1:
        raise BadValue(f"truncated needs a share in (0, 1], got {share:g}")
    teacher: nn.Module = players.teacher.module  # type: ignore[assignment]
    layers = len(layers_of(teacher))
    return shrink(teacher, choice(layers, max(1, round(share * layers))))


def angles(streams: list[Tensor], length_B: Tensor, block: int) -> Tensor:
    """The mean angular distance over every block of layers, at the last token of each row.

    d(h_l, h_{l+n}) = arccos(h_l . h_{l+n} / (|h_l| |h_{l+n}|)) / pi

    Args:
        streams: what flows into each layer and out of the last, L + 1 tensors (B, T, H).
        length_B: tokens of each row.
        block: n, the layers of a block.

    Returns:
        (L - n + 1,), in [0, 1]: for each layer that a block may begin with.

    Example:
        >>> x, y = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]])
        >>> angles([x, x, y], torch.tensor([1]), 1)
        tensor([0.0000, 0.5000])

    Source: Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv:2403.17887, equation 7.
    """
    rows_B = torch.arange(len(length_B), device=length_B.device)
    last = [h_BTH[rows_B, length_B - 1].double() for h_BTH in streams]
    cosines = [cosine_similarity(a, b, dim=1).clamp(-1, 1) for a, b in zip(last, last[block:], strict=False)]
    return torch.stack([c.arccos().mean() / math.pi for c in cosines]).float()


@part
def closest_block(
    players: Players, batch: Batch, state: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Make the student from the teacher without the block of layers that turns the stream least.

    l = argmin_l mean d(h_l, h_{l+n}), layers l, ..., l + n - 1 go, n = L - (the student's layers)

    Args:
        players: the teacher, and the student, which has its shape but for the number of layers (see `truncated`).
        batch: rows of language data to measure on.
        state: not used.

    Returns:
        The state, and the first layer of the block with its distance, to be logged.

    Raises:
        BadValue: a student that is not shallower than the teacher.
        Mismatch: a student of another shape.

    Source: Gromov et al., arXiv:2403.17887, section 3.
    """
    from limbeck.adapters.depth import layers_of, streams
    from limbeck.adapters.surgery import shrink

    teacher, student = players.teacher.module, players.student.module
    layers = len(layers_of(teacher))  # type: ignore[arg-type]
    block = layers - len(layers_of(student))  # type: ignore[arg-type]
    if block < 1:
        raise BadValue(f"the student has all {layers} layers of the teacher or more, so no block of them can go")
    distance = angles(streams(teacher, batch), batch.length, block)  # type: ignore[arg-type]
    start = int(distance.argmin())
    kept = [layer for layer in range(layers) if not start <= layer < start + block]
    players.student.load(shrink(teacher, kept).state_dict())  # type: ignore[arg-type]
    return state, {"start": float(start), "distance": float(distance[start])}
