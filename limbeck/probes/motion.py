"""Whether what is filmed moves as it must.

Shapes: N clips, F frames, D coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.clips import chunkwise
from limbeck.players import Players
from limbeck.probes.distribution import sampled

__all__ = ["bounce_error", "motion_error"]

CHUNKWISE = chunkwise()


def bounce_error(clips: Tensor) -> Tensor:
    """How far each frame from the third on is from where the two before it say it must be.

    min_v |x_f - fold(x_{f-1} + v)| in each coordinate, v in {b - a, a + b - 2, a + b + 2}

    for a = x_{f-2}, b = x_{f-1}: no wall was met between them, or the one at 1, or the one at -1.

    Args:
        clips: (N, F, D) in the box [-1, 1].

    Returns:
        (N, F - 2, D), 0 for a true flight.

    Example:
        >>> clip = torch.tensor([0.5, 0.9, 0.7, 0.3])[None, :, None]  # flies on to 1.3, which is 0.7, and back
        >>> bool(bounce_error(clip).max() < 1e-6)
        True
    """
    a, b, c = clips[:, :-2], clips[:, 1:-1], clips[:, 2:]
    velocity = torch.stack((b - a, a + b - 2, a + b + 2))
    flight = b + velocity
    there = 1 - ((flight + 1) % 4 - 2).abs()
    return (there - c).abs().amin(0)


@part
def motion_error(
    players: Players, data: Mapping[str, Source], *, draw: Expr = CHUNKWISE, rows: int = 2_000, first: int = 2,
) -> float:  # fmt: skip
    """How far frames are from where the two before them say they must be.

    mean |x_f - fold(x_{f-1} + v)|, over coordinates and frames f >= first

    Args:
        players: the student that is sampled.
        data: the test split has clips (F, D) in the column x.
        draw: the sampler; it may draw more frames than the data have.
        rows: how many clips, at most.
        first: the first frame that counts, 2 or later; later ones for what has drifted.

    Returns:
        The error, in units of the data.

    Raises:
        UnknownName: the test split has no column x.
    """
    x, truth = sampled(players, data, draw, rows)
    clips = x.view(len(x), -1, truth.x.shape[-1])
    return float(bounce_error(clips)[:, first - 2 :].mean())
