"""How well a teacher's pull agrees with the steepest ascent of success, at the nodes of a student's own answers.

The figures read a table of branches (see `limbeck.parts.branch`). Over the candidates of a node, as if there were no
other tokens, pi is the student, p the teacher and Q the share of successes behind each:

    g*_v = pi_v (Q_v - V), V = sum_v pi_v Q_v,   the derivative of V by the student's logits

and the score is the cosine of g* and the pull g of a divergence, all nodes taken as one long vector. Q is a mean of few
marks, whose noise makes g* too long: its square is estimated by the product of its two halves, which have noises of
their own.

Shapes: N nodes, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.errors import BadData
from limbeck.part import Part, part
from limbeck.parts.branch import forced
from limbeck.parts.transcript import contains_answer
from limbeck.players import Players
from limbeck.probes.branch_value import exact_values
from limbeck.rng import Rng

__all__ = [
    "alignment_bound",
    "alignment_error",
    "alignment_gap",
    "alignment_score",
    "ideal_pull",
    "pooled_cosine",
    "to_teacher_forward",
    "to_teacher_reverse",
]

DRAWS = 200


@part
def to_teacher_forward(own: Tensor, theirs: Tensor) -> Tensor:
    """The pull of forward KL on the student's logits.

    g = -d KL(p || pi) / d z = p - pi

    Args:
        own: log pi (N, K).
        theirs: log p (N, K).

    Example:
        >>> to_teacher_forward()(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log())
        tensor([[ 0.2500, -0.2500]])
    """
    return theirs.exp() - own.exp()


@part
def to_teacher_reverse(own: Tensor, theirs: Tensor) -> Tensor:
    """The pull of reverse KL on the student's logits; that of one sampled token is the same in the mean.

    g = -d KL(pi || p) / d z = pi (a - sum_u pi_u a_u), a = log p - log pi

    Args:
        own: log pi (N, K).
        theirs: log p (N, K).
    """
    return ideal_pull(own, theirs - own)


def ideal_pull(own: Tensor, value: Tensor) -> Tensor:
    """The derivative of the mean value by the student's logits: pi (Q - sum_u pi_u Q_u).

    Args:
        own: log pi (N, K).
        value: Q (N, K).

    Example:
        >>> ideal_pull(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]))
        tensor([[ 0.2500, -0.2500]])
    """
    pi = own.exp()
    return pi * (value - (pi * value).sum(-1, keepdim=True))


def pooled_cosine(first: Tensor, second: Tensor, given: Tensor) -> Tensor:
    """The cosine of what two noisy vectors have in common with a third, from rows of inner products.

    <(a + b) / 2, g> / sqrt(<a, b> <g, g>), each summed over the nodes

    Args:
        first: a (N, K).
        second: b (N, K), equal to a but for independent noise.
        given: g (N, K).

    Returns:
        (); 0 where one of the vectors is nothing but noise.

    Example:
        >>> x = torch.tensor([[1.0, 0.0]])
        >>> pooled_cosine(x, x, torch.tensor([[1.0, 1.0]]))
        tensor(0.7071)
    """
    size = ((first * second).sum() * given.square().sum()).clamp(min=0).sqrt()
    return ((first + second) / 2 * given).sum() / size if size > 0 else size


def _pulls(table: Batch, direction: Part, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """g* from both halves, and g, over the candidates alone."""
    padding = table["chance"] <= 0
    own, theirs = (table[name].masked_fill(padding, -torch.inf).log_softmax(-1) for name in ("own", "theirs"))
    own, theirs = (logp.masked_fill(padding, -1e4) for logp in (own, theirs))  # no mass, and no infinite difference
    return ideal_pull(own, value[..., 0]), ideal_pull(own, value[..., 1]), direction(own, theirs)


def _branches(data: Mapping[str, Source], low: float, high: float) -> Batch:
    """The nodes of answers whose marks lie between two bounds."""
    if "branches" not in data:
        raise BadData("alignment is measured on branches, which a stage made `into` that name: this run has none")
    source = data["branches"]
    table = Batch(dict(source.take(torch.arange(len(source)))))
    reward = table["reward"]
    return Batch(dict(source.take(((reward >= low) & (reward <= high)).nonzero()[:, 0])))


def _score(table: Batch, direction: Part) -> float:
    return float(pooled_cosine(*_pulls(table, direction, table["value"])))


@part(higher=True)
def alignment_score(
    players: Players,
    data: Mapping[str, Source],
    *,
    direction: Part = to_teacher_reverse(),
    low: float = 0.0,
    high: float = 1.0,
) -> float:
    """The cosine of the teacher's pull and the steepest ascent of success.

    cos(g*, g) over all nodes of answers with low <= r <= high

    Args:
        players: not asked.
        data: the table `branches`.
        direction: the pull g, of log pi and log p.
        low: the least mark of an answer.
        high: the largest.

    Raises:
        BadData: a run without branches.

    Source: Ilhan et al., "Unmasking On-Policy Distillation", arXiv:2605.10889 (gradient alignment score).
    """
    return _score(_branches(data, low, high), direction)


@part(higher=True)
def alignment_gap(
    players: Players, data: Mapping[str, Source], *, direction: Part = to_teacher_reverse(), mark: float = 0.5
) -> float:
    """By how much the teacher's pull is better aligned on wrong answers than on right ones.

    cos(g*, g) where r < mark, less cos(g*, g) where r >= mark

    Args:
        players: not asked.
        data: the table `branches`.
        direction: the pull g, of log pi and log p.
        mark: from which on an answer is right.

    Raises:
        BadData: a run without branches.

    Source: Ilhan et al., "Unmasking On-Policy Distillation", arXiv:2605.10889.
    """
    below = float(torch.nextafter(torch.tensor(mark), torch.tensor(-torch.inf)))
    wrong, right = _branches(data, -torch.inf, below), _branches(data, mark, torch.inf)
    return _score(wrong, direction) - _score(right, direction)


def resampled(rows: Tensor, figure: Callable[[Tensor], float], draws: int = DRAWS) -> Tensor:
    """A figure on tables whose clusters were drawn anew, with replacement.

    Args:
        rows: (N,) the cluster of every row of the table.
        figure: of the places (M,) of the rows that are taken.
        draws: how often.

    Returns:
        (draws,) float64.
    """
    clusters, at = rows.unique(return_inverse=True)
    members = [(at == c).nonzero()[:, 0] for c in range(len(clusters))]
    u = Rng(("bootstrap",), torch.arange(draws)).uniform("cluster", len(clusters))
    chosen = (u * len(clusters)).long().clamp(max=len(clusters) - 1).tolist()
    return torch.tensor([figure(torch.cat([members[c] for c in row])) for row in chosen], dtype=torch.float64)


@part(higher=True)
def alignment_bound(
    players: Players,
    data: Mapping[str, Source],
    *,
    direction: Part = to_teacher_reverse(),
    low: float = 0.0,
    high: float = 1.0,
    level: float = 0.05,
) -> float:
    """A quantile of the alignment score under a bootstrap over questions: one end of its interval.

    Args:
        players: not asked.
        data: the table `branches`.
        direction: the pull g, of log pi and log p.
        low: the least mark of an answer.
        high: the largest.
        level: the quantile.

    Raises:
        BadData: a run without branches.
    """
    table = _branches(data, low, high)
    pulls = _pulls(table, direction, table["value"])
    found = resampled(table["row"], lambda at: float(pooled_cosine(*(g[at] for g in pulls))))
    return float(found.quantile(level))


@part
def alignment_error(
    players: Players,
    data: Mapping[str, Source],
    *,
    direction: Part = to_teacher_reverse(),
    verifier: Part = contains_answer(),
    limit: int = 32,
    least: float = 1e-3,
    max_new_tokens: int = 64,
) -> float:
    """How far the score from few answers is from the score with exact values, on the same nodes.

    |cos(g* of sampled Q, g) - cos(g* of Q, g)|

    Args:
        players: `student`, whose answers are followed through.
        data: the table `branches`.
        direction: the pull g, of log pi and log p.
        verifier: gives r, a mark in [0, 1].
        limit: nodes that are compared, spread over the table.
        least: beginnings of answers less likely than that are left out, which bounds the cost.
        max_new_tokens: where a whole answer is cut.

    Raises:
        BadData: a run without branches.
    """
    table = _branches(data, -torch.inf, torch.inf)
    some = torch.linspace(0, table.size - 1, min(limit, table.size)).long()
    table = Batch(dict(data["branches"].take(some)))
    n_M, k_M = (table["chance"] > 0).nonzero().T
    rows = forced(table, n_M, table["ids"][n_M, k_M])
    exact = torch.zeros(table["ids"].shape)
    exact[n_M, k_M] = exact_values(players.student, rows, verifier, least=least, max_new_tokens=max_new_tokens)
    truth = pooled_cosine(*_pulls(table, direction, exact[..., None].expand(-1, -1, 2)))
    return abs(_score(table, direction) - float(truth))
