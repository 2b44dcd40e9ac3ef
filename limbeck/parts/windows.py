"""Reflow in windows: a flow is made straight piece by piece, from real data, at a fraction of the simulation.

The path is cut at levels 1 = t_K > ... > t_0 = 0. Within a window the teacher carries noised data from its upper end to
its lower, and the student learns the straight line between both; sampled by a step a window, it jumps from end to end.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue, Mismatch
from limbeck.part import Expr, part
from limbeck.parts.solver import EULER, even, solve
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = ["add_delta", "window_states"]

FOUR = even(4)


@part
def window_states(
    players: Players, batch: Batch, *, solver: Expr = EULER, borders: tuple[float, ...] = FOUR, steps: int = 4
) -> Batch:
    """Points on the straight line that replaces the teacher's trajectory within a window.

    x_hi = (1 - t_k) x0 + t_k e, x_lo = x(t_{k-1}) from x_hi by the teacher, k ~ U{1 .. K};
    x_t = x_lo + u (x_hi - x_lo), t = t_{k-1} + u (t_k - t_{k-1}), u ~ U(0, 1);
    velocity = (x_hi - x_lo) / (t_k - t_{k-1})

    Args:
        players: the teacher answers what the solver asks.
        batch: rows whose column x is a datum.
        solver: a solver part.
        borders: falling levels t_K .. t_0; two of them for reflow of the whole path.
        steps: steps of the solver in a window.

    Returns:
        The batch with the point in x, its level in t, the slope in `velocity`, and the datum in `real`.

    Raises:
        BadValue: borders that do not fall, or fewer than two.

    Source: Yan et al., arXiv:2405.07510, the training of a piecewise flow.
    """
    if len(borders) < 2 or any(lo >= hi for hi, lo in pairwise(borders)):
        raise BadValue(f"the borders of windows must fall, two or more of them, got {borders}")
    x0, levels = batch.x, torch.tensor(borders, dtype=batch.x.dtype, device=batch.device)
    k = batch.rng.integers("window", len(borders) - 1).view(-1)
    hi, lo = levels[k], levels[k + 1]
    e = batch.rng.normal("noise", *x0.shape[1:]).to(x0.dtype)
    top = (1 - like(hi, x0)) * x0 + like(hi, x0) * e
    low = solve(players.teacher, batch, solver, top, [hi + (lo - hi) * i / steps for i in range(steps + 1)])[-1]
    u = batch.rng.uniform("level").view(-1).to(x0.dtype)
    slope = (top - low) / like(hi - lo, x0)
    return batch.with_(x=low + like(u, x0) * (top - low), t=lo + u * (hi - lo), velocity=slope, real=x0)


@part
def add_delta(players: Players, batch: Batch, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Give another net what the student has learnt, as a difference of weights: a step of a *solve* stage.

    w_other <- w_other + (w_student - w_origin)

    Args:
        players: `student`; `origin`, from which it began; `other`, a net of the same architecture tuned to something
            else, which changes.
        batch: not asked.
        state: stays empty.

    Returns:
        The state, and the size of the difference.

    Raises:
        Mismatch: `other` has other names or shapes of weights.

    Source: Yan et al., arXiv:2405.07510, the difference of weights as a plug-in.
    """
    now, then, other = (players[name].module.state_dict() for name in ("student", "origin", "other"))  # type: ignore[union-attr]
    if odd := [k for k, v in now.items() if k not in other or other[k].shape != v.shape]:
        raise Mismatch(f"player 'other' cannot take the student's difference: they differ at {odd[0]!r}")
    delta = {k: v - then[k] for k, v in now.items() if v.is_floating_point()}
    players.other.load({k: v + delta[k] if k in delta else v for k, v in other.items()})
    return state, {"delta": float(_norm(list(delta.values())))}


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt()
