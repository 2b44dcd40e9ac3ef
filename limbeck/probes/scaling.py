"""What a sweep for a scaling law measures of each run, and how well the laws predict runs that they have not seen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limbeck.data import Source
from limbeck.part import part
from limbeck.parts.scaling import Cells, Distilled, Supervised, cells_of
from limbeck.players import Players
from limbeck.probes.language import nll

__all__ = ["early_gain", "excess_error", "held_out_error", "late_gain", "loss_of", "tokens_of", "weights_of"]


@part
def loss_of(players: Players, data: Mapping[str, Source], *, of: str = "student", limit: int = 0) -> float:
    """The cross-entropy of a player on a test token, in nats.

    Args:
        players: the player `of`.
        data: the splits.
        of: whose.
        limit: rows that are read; 0 for all.

    Raises:
        UnknownName: there is no such player.
    """
    return nll.fn(players.renamed({"student": of}), data, limit=limit)  # type: ignore[no-any-return]


@part
def weights_of(players: Players, data: Mapping[str, Source], *, of: str = "student") -> float:
    """The weights of a language model without those of its table of words and of its output.

    Args:
        players: the player `of`.
        data: not read.
        of: whose.

    Raises:
        UnknownName: there is no such player.
    """
    net = players[of].module
    assert net is not None
    tables = {m.weight.shape for m in net.modules() if isinstance(m, nn.Embedding)}
    return float(sum(p.numel() for p in net.parameters() if p.shape not in tables))


@part
def tokens_of(players: Players, data: Mapping[str, Source], *, of: str = "train") -> float:
    """The target tokens of some data: what one pass over it shows a student.

    Args:
        players: not asked.
        data: the splits and what was made.
        of: which.
    """
    rows = data[of].take(torch.arange(len(data[of])))
    return float(torch.as_tensor(rows["mask"]).sum())


def _runs(data: Mapping[str, Source], of: str, held: int = 0) -> Cells:
    return cells_of(data[of].take(torch.arange(len(data[of]))), held, kept=not held)


@part
def held_out_error(
    players: Players, data: Mapping[str, Source], *, held: int = 4, blind: bool = False, truth: str = "oracle"
) -> float:
    """How far the law of distillation is off for runs that it was not fitted to, in parts of what can be lost.

    mean_i |L_S(N_i, D_i, L_Ti) - L_i| / (L_i - E), with E the cross-entropy of the truth on the same rows

    Args:
        players: `laws` and the player that is the truth.
        data: `distilled`, the table of runs; and the test rows.
        held: every so many runs one was held out.
        blind: whether to take the law that knows of no teacher.
        truth: the player.

    Raises:
        UnknownName: there is no such player.
    """
    cells, fitted = _runs(data, "distilled", held), players["laws"].module
    n, d = cells.n.double(), cells.d.double()
    if blind:
        said = Supervised(*fitted.blind.tolist())(n, d)  # type: ignore[union-attr, operator]
    else:
        alone = Supervised(*fitted.alone.tolist())(n, d)  # type: ignore[union-attr, operator]
        said = Distilled(*fitted.under.tolist())(n, d, cells.teacher.double(), alone)  # type: ignore[union-attr, operator]
    floor = loss_of.fn(players, data, of=truth)
    return float(((said - cells.loss).abs() / (cells.loss - floor)).mean())


@part
def excess_error(players: Players, data: Mapping[str, Source], *, held: int = 4, truth: str = "oracle") -> float:
    """How much further off the law of distillation is than the law without a teacher; 0 where it is nearer.

    max(0, error - blind error), each as `held_out_error` has it

    Args:
        players: `laws` and the player that is the truth.
        data: `distilled`, the table of runs; and the test rows.
        held: every so many runs one was held out.
        truth: the player.
    """
    errors = [held_out_error.fn(players, data, held=held, blind=blind, truth=truth) for blind in (False, True)]
    return max(0.0, errors[0] - errors[1])


def _gain(data: Mapping[str, Source], most: bool) -> float:
    """By how much distillation from the best teacher beats learning alone, at the most or the fewest tokens."""
    alone, under = _runs(data, "supervised"), _runs(data, "distilled")
    assert under.teacher is not None

    def mean(cells: Cells, among: Tensor) -> Tensor:
        at = cells.d[among].max() if most else cells.d[among].min()
        return cells.loss[among & (cells.d == at)].mean()

    best = under.teacher == under.teacher.min()
    return float(mean(alone, alone.d > 0) - mean(under, best))


@part(higher=True)
def early_gain(players: Players, data: Mapping[str, Source]) -> float:
    """By how much distillation from the best teacher lowers the loss at the fewest tokens, on average over sizes.

    Args:
        players: not asked.
        data: the tables `supervised` and `distilled`.
    """
    return _gain(data, most=False)


@part(higher=True)
def late_gain(players: Players, data: Mapping[str, Source]) -> float:
    """By how much it does so at the most tokens.

    Args:
        players: not asked.
        data: the tables `supervised` and `distilled`.
    """
    return _gain(data, most=True)
