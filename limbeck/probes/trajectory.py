"""How far a few-step student strays from the trajectories of the flow that it should follow.

Shapes: N trajectories, D coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.flowmap import any_step
from limbeck.players import Players
from limbeck.rng import Rng

__all__ = ["exact_ends", "trajectory_error"]

ONE_JUMP = any_step()


@lru_cache(maxsize=32)
def exact_ends(bed: str, key: str, rows: int, dim: int) -> Tensor:
    """Where the exact flow of a bed carries the noise of the first rows.

    Phi(e, 1 -> 0)

    Args:
        bed: the key of a bed whose player `oracle` answers "flow_map".
        key: what the noise belongs to.
        rows: N.
        dim: D.

    Returns:
        (N, D).

    Raises:
        UnknownName: no bed of that name.
    """
    noise = Rng(("trajectory", key), torch.arange(rows)).normal("z", dim)
    start = {"x": noise, "t": torch.ones(rows), "s": torch.zeros(rows)}
    ends: Tensor = load_bed(bed).players["oracle"](0)(start, frozenset({"flow_map"}))["flow_map"]
    return ends


@part
def trajectory_error(
    players: Players, data: Mapping[str, Source], *, bed: str = "mog8", draw: Expr = ONE_JUMP, rows: int = 1_000
) -> float:
    """Squared distance between where the student and where the exact flow carry the same noise.

    mean |G(e) - Phi(e, 1 -> 0)|^2

    Args:
        players: the student that is sampled.
        data: the test split, which gives the noise its seed.
        bed: the bed whose flow it is.
        draw: the sampler, which starts from the noise of each row.
        rows: how many trajectories, at most.

    Returns:
        The error, in squared units of the data.

    Raises:
        UnknownName: there is no bed of that name.

    Source: Boffi et al., arXiv:2505.18825; the exact flow takes the place of a teacher's.
    """
    source = data["test"]
    index = torch.arange(min(rows, len(source)))
    where = next((p.device for player in players.values() for p in player.params), index.device)
    seed = source.fingerprint
    batch = Batch(source.take(index), rng=Rng(("trajectory", seed), index)).to(where)
    with torch.no_grad():
        ends = draw(players, batch)  # type: ignore[operator]
    exact = exact_ends(bed, seed, len(index), batch.x.shape[1]).to(ends)
    return float((ends - exact).square().sum(1).double().mean())
