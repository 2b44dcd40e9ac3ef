"""Measures of gradients: how much of what rows ask for they agree on.

Shapes: B rows, P weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.errors import BadData
from limbeck.part import Expr, part
from limbeck.parts.token import forward_kl
from limbeck.players import Players

__all__ = ["gradient_snr", "row_gradients", "signal_to_noise"]


def signal_to_noise(gradients_BP: Tensor) -> float:
    """The signal of rows' gradients over their noise, without the noise that is left in the mean.

    (|mean g|^2 - tr Cov(g) / B) / tr Cov(g)

    Args:
        gradients_BP: a gradient a row, at least two.

    Returns:
        The ratio; near 0 for gradients that have nothing in common, and now and then below.

    Raises:
        BadData: fewer than two rows.

    Example:
        >>> signal_to_noise(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        0.0
    """
    rows = len(gradients_BP)
    if rows < 2:
        raise BadData(f"a ratio of signal to noise needs at least 2 rows, got {rows}")
    noise = gradients_BP.var(0).sum()
    return float((gradients_BP.mean(0).square().sum() - noise / rows) / noise)


def row_gradients(players: Players, rows: Mapping[str, Tensor], loss: Expr) -> Tensor:
    """The gradient of each row's own loss by the student's weights, (B, P)."""
    params, found = players["student"].params, []
    asked = [p.requires_grad for p in params]
    for p in params:
        p.requires_grad_(True)
    with torch.enable_grad():
        for b in range(len(rows["mask"])):
            value = sum(loss.total(players, Batch({k: c[b : b + 1] for k, c in rows.items()})).values())
            slopes = torch.autograd.grad(value, params)  # type: ignore[arg-type]
            found.append(torch.cat([slope.flatten() for slope in slopes]))
    for p, before in zip(params, asked, strict=True):
        p.requires_grad_(before)
    return torch.stack(found)


@part(higher=True)
def gradient_snr(
    players: Players, data: Mapping[str, Source], *, of: str = "rated", low: float = 0.2, high: float = 0.8,
    loss: Expr = forward_kl(), limit: int = 32,
) -> float:  # fmt: skip
    """How much prompts of a range of pass rates agree on where the student should go.

    (|E g|^2 - tr Cov(g) / B) / tr Cov(g), over the prompts with low <= p <= high

    Args:
        players: those that the loss asks.
        data: `of` with the columns `pass_rate`, `tokens`, `mask`.
        of: which data.
        low: the least pass rate.
        high: the highest.
        loss: whose gradient it is.
        limit: prompts, the first ones in the range; 0 for all.

    Returns:
        The ratio; 0 where there are fewer than two such prompts.

    Source: Xu et al., arXiv:2603.11178.
    """
    source = data[of].take(torch.arange(len(data[of])))
    columns = {k: c for k, c in source.items() if isinstance(c, Tensor)}
    p_B = columns["pass_rate"]
    rows = ((p_B >= low) & (p_B <= high)).nonzero()[:, 0]
    rows = rows[: limit or len(rows)]
    if len(rows) < 2:
        return 0.0
    return signal_to_noise(row_gradients(players, {k: c[rows] for k, c in columns.items()}, loss))
