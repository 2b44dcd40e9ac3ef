"""How far a sampler ends from where it should, noise by noise.

Shapes: N trajectories; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.plan import planned_sample
from limbeck.players import Players
from limbeck.probes.distribution import sampled

__all__ = ["endpoint_error", "exact_end"]

PLANNED = planned_sample()


@part
def exact_end(players: Players, batch: Batch) -> Tensor:
    """Where the exact flow of a bed carries noise.

    Phi(z, 1 -> 0), z ~ N(0, I)

    Args:
        players: `oracle` answers "flow_map" on columns x, t, s.
        batch: rows whose column x has the shape of a datum.

    Returns:
        (B, ...).

    Raises:
        UnknownName: there is no player `oracle`.
    """
    z = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
    level = torch.ones(batch.size, dtype=z.dtype, device=z.device)
    return players.oracle(batch.with_(x=z, t=level, s=0 * level), "flow_map")  # type: ignore[no-any-return]


EXACT = exact_end()


@part
def endpoint_error(
    players: Players,
    data: Mapping[str, Source],
    *,
    draw: Expr = PLANNED,
    reference: Expr = EXACT,
    rows: int = 1_000,
) -> float:
    """Distance between where a sampler and where a reference carry the same noise, root mean square over trajectories.

    sqrt(mean |x(z) - x*(z)|^2)

    Args:
        players: those that the two samplers ask.
        data: the test split has a column x.
        draw: the sampler; its noise is the draw "z" of a row, as that of all samplers here.
        reference: the sampler that it should agree with; by default the exact flow.
        rows: how many trajectories, at most.

    Returns:
        The distance, in units of the data.

    Raises:
        UnknownName: a player that a sampler asks is not there.

    Source: Shaul et al., arXiv:2310.19075, the error at the end, without the division by the dimension.
    """
    found, there = (sampled(players, data, sampler, rows)[0] for sampler in (draw, reference))
    return float((found - there).square().sum(1).mean().sqrt())
