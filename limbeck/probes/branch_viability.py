"""Which tokens of a teacher can be trusted: what tells whether the student gets there from them.

The figures read a table of branches (see `limbeck.parts.branch`) whose candidates were drawn from the teacher. Those
that are another token than the one that was said are its alternatives. An alternative is viable as often as the student
succeeds behind it; a score of its node is judged by AUROC, the probability that it is higher for a viable alternative
than for one that is not. Intervals are by bootstrap over questions.

Shapes: N nodes, K candidates, M branches.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.errors import BadData
from limbeck.part import part
from limbeck.players import Players
from limbeck.probes.alignment_score import resampled

__all__ = ["auroc", "local_auroc", "position_auroc", "position_lead", "position_lead_bound", "position_shortfall"]


def auroc(score: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The probability that a positive has a higher score than a negative, ties counting half.

    sum_ij w+_i w-_j ([s_i > s_j] + [s_i = s_j] / 2) / (sum_i w+_i sum_j w-_j)

    Args:
        score: (M,).
        positive: (M,) the weight of each as a positive.
        negative: (M,) its weight as a negative; one may be in part this, in part that.

    Returns:
        (); not a number without positives or without negatives.

    Example:
        >>> one = torch.tensor([1.0, 1.0, 0.0])
        >>> auroc(torch.tensor([0.9, 0.5, 0.5]), one, 1 - one)
        tensor(0.7500)
    """
    values, at = score.unique(return_inverse=True)
    up, down = (torch.zeros(len(values), dtype=w.dtype).index_add_(0, at, w) for w in (positive, negative))
    below = down.cumsum(0) - down / 2
    return (up * below).sum() / (up.sum() * down.sum())


def _branches(data: Mapping[str, Source]) -> Batch:
    """The table of branches, its weights those of alternatives.

    Raises:
        BadData: there is none.
    """
    if "branches" not in data:
        raise BadData("viability is measured on branches, which a stage made `into` that name: this run has none")
    source = data["branches"]
    table = Batch(dict(source.take(torch.arange(len(source)))))
    said_N = table["tokens"][table["mask"]]
    return table.with_(chance=table["chance"] * (table["ids"] != said_N[:, None]))


def _aurocs(table: Batch, at: Tensor) -> Tensor:
    """The AUROC of position, and those of the local scores, each in its better direction, on some nodes."""
    chance, value = table["chance"][at].double(), table["value"][at].double().mean(-1)
    viable, not_viable = (chance * value).sum(1), (chance * (1 - value)).sum(1)
    local = [auroc(score, viable, not_viable) for score in table["scores"][at].T]
    return torch.stack([auroc(table["position"][at], viable, not_viable), *(torch.maximum(a, 1 - a) for a in local)])


def _lead(table: Batch, at: Tensor) -> float:
    position, *local = _aurocs(table, at).tolist()
    return float(position - max(local))


@part(higher=True)
def position_auroc(players: Players, data: Mapping[str, Source]) -> float:
    """How well the place in the answer tells viable teacher tokens from others.

    AUROC(u)

    Args:
        players: not asked.
        data: the table `branches`.

    Raises:
        BadData: a run without branches.

    Source: Liu et al., "When Are Teacher Tokens Reliable?", arXiv:2605.21606 (the branch-viability diagnostic).
    """
    table = _branches(data)
    return float(_aurocs(table, torch.arange(table.size))[0])


@part(higher=True)
def local_auroc(players: Players, data: Mapping[str, Source]) -> float:
    """How well the best of the local scores does, each in the direction that suits it here.

    max_s max(AUROC(s), 1 - AUROC(s)), s the entropy of teacher or student, their KL, or the teacher's margin

    Args:
        players: not asked.
        data: the table `branches`, with `scores`.

    Raises:
        BadData: a run without branches.

    Source: Liu et al., "When Are Teacher Tokens Reliable?", arXiv:2605.21606 (the branch-viability diagnostic).
    """
    table = _branches(data)
    return float(_aurocs(table, torch.arange(table.size))[1:].max())


@part(higher=True)
def position_lead(players: Players, data: Mapping[str, Source]) -> float:
    """By how much the place tells more than the best local score.

    AUROC(u) - max_s max(AUROC(s), 1 - AUROC(s))

    Args:
        players: not asked.
        data: the table `branches`, with `scores`.

    Raises:
        BadData: a run without branches.
    """
    table = _branches(data)
    return _lead(table, torch.arange(table.size))


@part(higher=True)
def position_lead_bound(players: Players, data: Mapping[str, Source], *, level: float = 0.05) -> float:
    """A quantile of the place's lead under a bootstrap over questions: one end of its interval.

    Args:
        players: not asked.
        data: the table `branches`, with `scores`.
        level: the quantile.

    Raises:
        BadData: a run without branches.
    """
    table = _branches(data)
    return float(resampled(table["row"], lambda at: _lead(table, at)).nanquantile(level))


@part
def position_shortfall(players: Players, data: Mapping[str, Source], *, least: float = 0.0) -> float:
    """What the place's lead over local scores lacks of what was stated: 0 where the premise holds.

    max(0, least - lead)

    Args:
        players: not asked.
        data: the table `branches`, with `scores`.
        least: the lead that is stated.

    Raises:
        BadData: a run without branches.
    """
    return max(0.0, least - position_lead.fn(players, data))
