"""A sampler over a fixed grid, written out as numbers: every state is a sum of noises and of answers of the net.

    x_j = sum_k n_jk z_k + sum_{i < j} b_ji h_i,  h_j = net(k_j x_j, told_j)

That holds for few-step samplers, flow maps and all solvers whose coefficients do not depend on the state, learned ones
too. The numbers are found by running the sampler once on rows that are not states but unit vectors: row 0 stands for
the first noise, and so on, and a net that answers the next unit vector takes the net's place.

Shapes: K rows, one for each noise and each answer; a state is one number a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.adapters.convention import Convention
from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

__all__ = ["unrolled"]

MOST = 512  # noises and answers, at most


@dataclass
class _Ledger:
    """Which row stands for what, and what was asked. The last row is a mixture of all: it tells whether sums stay sums.

    Args:
        noises: rows of noises, in the order in which they were drawn.
        answers: rows of answers.
        steps: what was asked.
    """

    noises: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def unit(self, kind: list[int]) -> Tensor:
        """The next unit vector."""
        row = len(self.noises) + len(self.answers)
        if row == MOST - 1:
            raise BadValue(f"a fixed grid has at most {MOST - 1} noises and answers")
        kind.append(row)
        out = torch.zeros(MOST, 1, dtype=torch.float64)
        out[row], out[-1] = 1.0, math.sin(row + 1.0)
        return out

    def sums(self, x: Tensor) -> dict[str, Any]:
        """A state as sums of noises and answers.

        Raises:
            BadValue: it is no sum.
        """
        column = x[:, 0].tolist()
        mixed = sum(c * math.sin(row + 1.0) for row, c in enumerate(column[:-1]))
        if abs(mixed - column[-1]) > 1e-6 * (1 + sum(map(abs, column))):
            raise BadValue("this sampler is no fixed grid: its steps depend on the state")
        return {"noises": _cut(column[i] for i in self.noises), "answers": _cut(column[i] for i in self.answers)}


def _cut(factors: Iterable[float]) -> list[float]:
    """Without the zeros at the end: what nobody uses is not drawn."""
    out = [*factors]
    while out and out[-1] == 0:
        out.pop()
    return out


class _Units(Rng):
    """Streams that give unit vectors in place of noise."""

    def __init__(self, ledger: _Ledger) -> None:
        super().__init__((), torch.arange(MOST))
        object.__setattr__(self, "ledger", ledger)

    def normal(self, name: str, *shape: int) -> Tensor:
        """The unit vector of the next noise."""
        ledger: _Ledger = self.ledger  # type: ignore[attr-defined]
        return ledger.unit(ledger.noises)

    def fold(self, *key: object) -> _Units:
        """Itself."""
        return self


class _Asked(nn.Module):
    """A net that writes down what it is asked and answers the next unit vector, in a net's convention."""

    def __init__(self, convention: Convention, ledger: _Ledger) -> None:
        super().__init__()
        self.convention, self.ledger = convention, ledger

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        x, t = batch["x"], batch["t"].double()
        if not bool((t == t[0]).all()):
            raise BadValue("a fixed grid has the same levels for all rows")
        ends = float(batch["s"][0]) if "s" in batch else 0.0
        told, scale = float(self.convention.told(t)[0]), float(self.convention.seen(torch.ones_like(x), t)[0, 0])
        self.ledger.steps.append({"told": told, "scale": scale, "ahead": float(t[0]) - ends, **self.ledger.sums(x)})
        h = self.ledger.unit(self.ledger.answers)
        x0, eps = self.convention.read(h, x, t)
        found = {"x0": x0, "eps": eps, "velocity": eps - x0, "score": -eps / t[:, None].to(x.dtype)}
        return {w: found[w] for w in want}


@torch.no_grad()
def unrolled(
    convention: Convention, draw: Expr, asked: str = "student", others: Mapping[str, nn.Module] | None = None
) -> list[dict[str, Any]]:
    """The numbers of a sampler.

    Args:
        convention: of the net that is sampled.
        draw: the sampler, a part `(players, batch)`.
        asked: the player that it asks.
        others: further players that it asks, such as a learned solver.

    Returns:
        One dict an evaluation: what the net is told, the factor k of its state, how far a jump goes (`ahead`), and the
        state as sums; at the end, the sample as sums alone.

    Raises:
        BadValue: a sampler whose states are no such sums, or with levels that differ from row to row.

    Example:
        >>> from limbeck.adapters.convention import flow
        >>> from limbeck.parts.states import few_step
        >>> unrolled(flow(1000), few_step())[-1]
        {'noises': [1.0], 'answers': [-1.0]}
    """
    ledger = _Ledger()
    nets = {**(others or {}), asked: _Asked(convention, ledger)}
    players = Players({name: Player(name, frozen(), net) for name, net in nets.items()})
    players.turn("probe")
    batch = Batch({"x": torch.zeros(MOST, 1, dtype=torch.float64)}, rng=_Units(ledger))
    end = draw(players, batch)  # type: ignore[operator]
    return [*ledger.steps, ledger.sums(end)]
