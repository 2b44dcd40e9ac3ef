"""How far rows that a *make* stage drew are from the data.

Shapes: N samples, D coordinates; data of any shape are flattened.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from limbeck.data import Source
from limbeck.errors import BadData
from limbeck.part import part
from limbeck.players import Players
from limbeck.probes.distribution import sliced_wasserstein
from limbeck.rng import Rng

__all__ = ["made_sw2"]


@part
def made_sw2(players: Players, data: Mapping[str, Source], *, made: str = "made", projections: int = 64) -> float:
    """Sliced 2-Wasserstein distance between rows that were made and the data of the test split.

    sqrt(mean_u W2(u . x, u . y)^2) over directions u drawn once, over as many rows as both have

    Args:
        players: not asked.
        data: the test split and what was made have a column x.
        made: the name under which a stage made the rows.
        projections: the number of directions.

    Returns:
        The distance, in units of the data.

    Raises:
        BadData: nothing was made under that name.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015.
    """
    if made not in data:
        raise BadData(f"made_sw2 reads the rows {made!r}, which a stage makes: this run has {', '.join(sorted(data))}")
    index = torch.arange(min(len(data[made]), len(data["test"])))
    x, y = (torch.as_tensor(data[name].take(index)["x"]).flatten(1).double() for name in (made, "test"))
    u = Rng(("directions",), torch.arange(projections)).normal("u", x.shape[1]).to(x)
    return sliced_wasserstein(x, y, u / u.norm(dim=1, keepdim=True))
