"""Small adapters in a frozen net: they add to what some of its modules answer, and learn what guidance would.

h' = h + A(h; t, y, w)

with A a perceptron whose last layer is zero at first, so that the net begins as it was. Without a column w it still is,
to the bit: adapters are off.

Shapes: B rows, n steps, F features of a module's answer, which stand in its last axis; a datum has any shape.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.guidance import Guided
from limbeck.parts.injection import hooked
from limbeck.parts.solver import euler, even
from limbeck.parts.states import noised, uniform_levels
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

__all__ = [
    "Adapted",
    "adapted",
    "guided_matching",
    "guided_noised",
    "guided_sample",
    "guided_states",
]

EULER, TWENTY, ANY = euler(), even(20), uniform_levels()
WAVES = 4


class Adapted(nn.Module):
    """A frozen net with adapters.

    Args:
        net: answers on columns x, t, y; it is copied and never changes.
        features: path of a module in it to F, the size of the last axis of its answer.
        width: hidden units of an adapter.
        classes: K; y = K is no class.

    Example:
        >>> from limbeck.beds._nets import fresh
        >>> net = fresh(0, 2, classes=3)
        >>> batch = {"x": torch.ones(1, 2), "t": torch.ones(1), "y": torch.tensor([1]), "w": torch.tensor([2.0])}
        >>> both = (f(batch, frozenset({"velocity"}))["velocity"] for f in (net, Adapted(net, {"trunk.1": 128}, 4, 3)))
        >>> torch.equal(*both)
        True
    """

    def __init__(self, net: nn.Module, features: Mapping[str, int], width: int, classes: int) -> None:
        super().__init__()
        self.net, self.paths, self.classes = copy.deepcopy(net).requires_grad_(False), tuple(features), classes
        self.label = nn.Embedding(classes + 1, width)
        self.inside = nn.ModuleList(nn.Linear(f + width + 2 * WAVES + 1, width) for f in features.values())
        self.outside = nn.ModuleList(nn.Linear(width, f) for f in features.values())
        for last in self.outside:
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer as the net does; with a column w (B,), as it is to do under guidance by w."""
        plain = {k: batch[k] for k in batch if k != "w"}
        if "w" not in batch:
            return dict(self.net(plain, want))
        angle = batch["t"][:, None] * (math.pi * 2.0 ** torch.arange(-1, WAVES - 1, device=batch["t"].device))
        told = torch.cat((angle.sin(), angle.cos(), batch["w"][:, None].log()), 1).to(self.label.weight.dtype)
        condition = torch.cat((told, self.label(batch["y"])), 1)

        def add(path: str, h: Tensor) -> Tensor:
            k = self.paths.index(path)
            c = condition.view(len(h), *[1] * (h.ndim - 2), -1).expand(*h.shape[:-1], -1)
            return h + self.outside[k](nn.functional.silu(self.inside[k](torch.cat((h, c.to(h.dtype)), -1)))).to(
                h.dtype
            )

        with hooked(self.net, self.paths, add):
            return dict(self.net(plain, want))


@part
def adapted(
    players: Players, batch: Batch, *, modules: tuple[str, ...] = ("trunk.1", "trunk.3", "trunk.5"), width: int = 16
) -> Adapted:
    """Build a student of the teacher's net and adapters in it.

    h' = h + W2 silu(W1 [h, t, y, log w]), W2 = 0

    Args:
        players: the teacher, a plain conditional net.
        batch: some rows of data, with a class in y.
        modules: paths in the teacher's net of those that get an adapter: the attention layers of a transformer.
        width: hidden units.

    Returns:
        The module.

    Raises:
        UnknownName: the net has no module of a path.
        BadValue: a teacher without classes.

    Source: Jensen and Sadat, arXiv:2503.07274.
    """
    net, classes = players.teacher.module, int(getattr(players.teacher, "classes", 0) or 0)
    assert net is not None
    if not classes:
        raise BadValue("adapters that replace guidance need a teacher with classes; this one is unconditional")
    sizes: dict[str, int] = {}
    level = torch.full((batch.size,), 0.5, dtype=batch.x.dtype, device=batch.device)
    with torch.no_grad(), hooked(net, modules, lambda path, h: sizes.update({path: h.shape[-1]})):
        net(dict(batch.with_(t=level).columns), frozenset({"velocity"}))
    return Adapted(net, sizes, width, classes).to(batch.device)


def _guided(players: Players) -> Players:
    """The teacher under guidance by the column w, where solvers look for the student."""
    net = players.teacher.module
    assert net is not None
    return Players({"student": Player("guided", frozen(), Guided(net, 1.0))})


@part
def guided_sample(players: Players, batch: Batch, *, solver: Expr = EULER, times: tuple[float, ...] = TWENTY) -> Tensor:
    """Sample the teacher under guidance, two evaluations for one.

    x(t_n) along v(., ., none) + w (v(., ., y) - v(., ., none)), from x(t_0) = t_0 z

    Args:
        players: the teacher, a plain conditional net.
        batch: rows with a class in y and a scale in w; x has the shape of a datum.
        solver: a solver part.
        times: falling times, from 1 or just below.

    Returns:
        (B, ...) samples.

    Raises:
        BadValue: a teacher without classes.

    Source: Ho and Salimans, arXiv:2207.12598, sampling with guidance.
    """
    return _run(players, batch, solver, times)[-1]


def _run(players: Players, batch: Batch, solver: Expr, times: tuple[float, ...]) -> list[Tensor]:
    z = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
    grid = torch.tensor(times, dtype=z.dtype, device=z.device).expand(batch.size, -1)
    states: list[Tensor] = solver(_guided(players), batch.with_(x=times[0] * z, grid=grid))  # type: ignore[operator]
    return states


@part
def guided_states(players: Players, batch: Batch, *, solver: Expr = EULER, times: tuple[float, ...] = TWENTY) -> Batch:
    """All states of the teacher's own guided sampling, and what guidance says there.

    x(t_i), v_w(x(t_i), t_i) for all i < n

    Args:
        players: the teacher, a plain conditional net.
        batch: rows with a class in y and a scale in w; x has the shape of a datum.
        solver: a solver part.
        times: falling times, from 1 or just below.

    Returns:
        n rows for each: x, t, y, w, and the guided velocity in `velocity`.

    Raises:
        BadValue: a teacher without classes.

    Source: Jensen and Sadat, arXiv:2503.07274.
    """
    states, n = _run(players, batch, solver, times)[:-1], len(times) - 1
    level = torch.tensor(times[:-1], dtype=batch.x.dtype, device=batch.device)
    rows = {"y": batch.y.repeat_interleave(n), "w": batch.w.repeat_interleave(n)}
    made = Batch(
        {"x": torch.stack(states, 1).flatten(0, 1), "t": level.repeat(batch.size), **rows}, _each(batch.rng, n)
    )
    return made.with_(velocity=_guided(players).student(made, "velocity"))


def _each(rng: Rng, n: int) -> Rng:
    """Streams of the n rows that are made of each."""
    step = torch.arange(n, device=rng.rows.device)
    return Rng((*rng.key, "states"), (rng.rows[:, None] * n + step).flatten())


@part
def guided_noised(players: Players, batch: Batch, *, levels: Expr = ANY) -> Batch:
    """Noised data, and what guidance says there: states that guided sampling need not come through.

    x_t = (1 - t) x + t e, v_w(x_t, t)

    Args:
        players: the teacher, a plain conditional net.
        batch: data in x, with a class in y and a scale in w.
        levels: a level part.

    Returns:
        The batch with the state in x, its level in t and the guided velocity in `velocity`.

    Raises:
        BadValue: a teacher without classes.

    Source: Meng et al., arXiv:2210.03142, the first of two stages.
    """
    seen = noised(players, batch, batch.x, levels, "guided")
    return seen.with_(velocity=_guided(players).student(seen, "velocity"))


@part
def guided_matching(players: Players, batch: Batch) -> Tensor:
    """One evaluation of the student says what two of the teacher do under guidance.

    |v(x, t, y, w) - v_w|^2 / D

    Args:
        players: the student answers "velocity" on columns x, t, y, w.
        batch: states, with the guided velocity in `velocity`.

    Returns:
        (B,).

    Raises:
        UnknownName: the batch has no column `velocity`.

    Source: Jensen and Sadat, arXiv:2503.07274.
    """
    return (players.student(batch, "velocity") - batch.velocity).square().flatten(1).mean(1)
