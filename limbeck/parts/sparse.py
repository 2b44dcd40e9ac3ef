"""Sparse targets: a few tokens of a teacher's distribution that stand for all of it, and how they are chosen.

A target part takes log-probabilities (N, V) of N target tokens and `uniform`, a function that gives n uniform numbers
to each of these tokens, (N, n), from the streams of their rows.

Shapes: B rows, T tokens, N target tokens, V vocabulary, K kept ids of a token, S draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue, NotFinite
from limbeck.kernels.head import TokenHead
from limbeck.part import Part, part
from limbeck.players import Players

__all__ = ["Captured", "Sparse", "Uniform", "capture", "captured", "drawn", "likeliest", "nucleus"]

Uniform = Callable[[int], Tensor]

LOGITS = 2**25  # logits that are held at a time


class Sparse(NamedTuple):
    """Sparse distributions of N tokens.

    ids (N, K) int64; logp (N, K), -inf where a token keeps fewer; tail (N,), the log of the mass that is not kept.
    """

    ids: Tensor
    logp: Tensor
    tail: Tensor


class Captured(NamedTuple):
    """Sparse targets, and what their fidelity is judged by.

    ids, logp and tail as in `Sparse`; true (N, K), the teacher's own log-probabilities of the ids; negentropy (N,), sum
    over the vocabulary of p log p.
    """

    ids: Tensor
    logp: Tensor
    tail: Tensor
    true: Tensor
    negentropy: Tensor


def _kept(logp_NV: Tensor, ids_NK: Tensor, values_NK: Tensor, keep_NK: Tensor) -> Sparse:
    """The ids that are kept, and the mass of all others, summed without cancellation."""
    rest_NV = logp_NV.scatter(-1, ids_NK, values_NK.masked_fill(keep_NK, -torch.inf))
    return Sparse(ids_NK, values_NK.masked_fill(~keep_NK, -torch.inf), rest_NV.logsumexp(-1))


@part
def likeliest(logp: Tensor, uniform: Uniform, *, k: int = 64) -> Sparse:
    """Keep the most probable tokens.

    {v : p_v is among the k largest}; what is learned from them alone is biased, since the tail has no shape

    Args:
        logp: log-probabilities (N, V).
        uniform: not asked.
        k: how many, at most V.

    Raises:
        BadValue: k is below 1.

    Example:
        >>> likeliest(k=2)(torch.tensor([[0.2, 0.5, 0.3]]).log(), None).ids
        tensor([[1, 2]])
    """
    if k < 1:
        raise BadValue(f"likeliest needs k >= 1, got {k}")
    values_NK, ids_NK = logp.topk(min(k, logp.shape[-1]), -1)
    return _kept(logp, ids_NK, values_NK, values_NK > -torch.inf)


@part
def nucleus(logp: Tensor, uniform: Uniform, *, p: float = 0.98, k: int = 100) -> Sparse:
    """Keep the smallest set of most probable tokens that holds a share of the mass, at most k of them.

    {v_1, ..., v_n}, n the least with p_1 + ... + p_n >= p, or k if that is less

    Args:
        logp: log-probabilities (N, V).
        uniform: not asked.
        p: the share, in (0, 1].
        k: how many, at most.

    Raises:
        BadValue: p outside (0, 1], or k below 1.

    Example:
        >>> nucleus(p=0.6)(torch.tensor([[0.1, 0.5, 0.2, 0.2]]).log(), None).logp.exp()
        tensor([[0.5000, 0.2000, 0.0000, 0.0000]])

    Source: the nucleus, Holtzman et al., arXiv:1904.09751, section 3.1.
    """
    if not 0 < p <= 1 or k < 1:
        raise BadValue(f"nucleus needs p in (0, 1] and k >= 1, got p={p:g}, k={k}")
    values_NK, ids_NK = logp.topk(min(k, logp.shape[-1]), -1)
    mass_NK = values_NK.double().exp()
    inside_NK = (mass_NK.cumsum(-1) - mass_NK < p) & (values_NK > -torch.inf)
    return _kept(logp, ids_NK, values_NK, inside_NK)


@part
def drawn(logp: Tensor, uniform: Uniform, *, draws: int = 50, alpha: float = 1.0) -> Sparse:
    """Keep a random sample whose mean is the whole distribution.

    x_1, ..., x_S ~ q, q_v = p_v^alpha / sum_w p_w^alpha, and the target t_v = (p_v / q_v) #{s : x_s = v} / S: E t = p

    With alpha = 1 the weights are counts of draws and sum to 1. The weights of other alphas sum to 1 in the mean only;
    they are not normalised, which would bias them. Nothing is said of a tail: its mass is 0.

    Args:
        logp: log-probabilities (N, V).
        uniform: asked for 2 S numbers a token.
        draws: S, independent draws; on a language model 50 are about 12 different ids.
        alpha: the power of the proposal; below 1, rare tokens are drawn more often and count less.

    Raises:
        BadValue: no draw, more than 32,767, or an alpha that is not positive.

    Source: Anshumann et al., "Sparse Logit Sampling", arXiv:2503.16870, random sampling knowledge distillation.
    """
    if not 1 <= draws <= 32767 or alpha <= 0:
        raise BadValue(f"drawn needs 1 <= draws <= 32767 and alpha > 0, got draws={draws}, alpha={alpha:g}")
    # two numbers a draw: 23 bits of one are too few for tokens that are rarer than 2^-23
    high_NS, low_NS = uniform(2 * draws).double().chunk(2, -1)
    logq_NV = (alpha * logp.double()).log_softmax(-1)
    cdf_NV = logq_NV.exp().cumsum(-1)
    drawn_NS = torch.searchsorted(cdf_NV, (high_NS + (low_NS - 0.5) * 2.0**-23) * cdf_NV[:, -1:])
    ids_NK, count_NK = _counted(drawn_NS)
    weight_NK = count_NK.log() - math.log(draws)
    if alpha != 1:
        ratio_NK = logp.double().gather(-1, ids_NK) - logq_NV.gather(-1, ids_NK)
        weight_NK += ratio_NK.masked_fill(count_NK == 0, 0.0)
    return Sparse(ids_NK, weight_NK, weight_NK.new_full((len(logp),), -torch.inf))


def _counted(drawn_NS: Tensor) -> tuple[Tensor, Tensor]:
    """Different ids (N, K) and how often each was drawn, as float64; 0 and 0 where a token has fewer.

    Example:
        >>> _counted(torch.tensor([[7, 3, 7], [1, 1, 1]]))
        (tensor([[3, 7],
                [1, 0]]), tensor([[1., 2.],
                [3., 0.]], dtype=torch.float64))
    """
    sorted_NS = drawn_NS.sort(-1).values
    new_NS = torch.ones_like(sorted_NS, dtype=torch.bool)
    new_NS[:, 1:] = sorted_NS[:, 1:] != sorted_NS[:, :-1]
    place_NS = new_NS.cumsum(-1) - 1
    ids_NS = torch.zeros_like(sorted_NS).scatter_(-1, place_NS, sorted_NS)
    count_NS = torch.zeros_like(sorted_NS, dtype=torch.float64)
    count_NS.scatter_add_(-1, place_NS, torch.ones_like(count_NS))
    most = int(place_NS.max()) + 1 if len(drawn_NS) else 0
    return ids_NS[:, :most], count_NS[:, :most]


@torch.no_grad()
def capture(head: TokenHead, targets: Part, uniform: Uniform) -> Captured:
    """Make sparse targets of a head, whose logits are made a few tokens at a time.

    Args:
        head: (N, D) rows, one for each target token.
        targets: the target part.
        uniform: random numbers of these tokens, (N, n) for n.

    Raises:
        NotFinite: a logit is NaN or +infinite.
    """
    pieces: list[Captured] = []
    rows = max(1, LOGITS // head.size)
    for start, logits in enumerate(head.chunks(rows)):
        here = slice(start * rows, start * rows + len(logits))
        logp_NV = logits.log_softmax(-1)
        if logp_NV.isnan().any():
            raise NotFinite("the teacher's logits hold NaN or infinity; check its weights and its precision")
        sparse = targets(logp_NV, lambda n, here=here: uniform(n)[here])
        negentropy_N = (logp_NV.exp() * logp_NV).nan_to_num_(0.0).sum(-1)
        true_NK = logp_NV.gather(-1, sparse.ids)
        pieces.append(Captured(sparse.ids, sparse.logp, sparse.tail, true_NK, negentropy_N))
    return Captured(*(_joined(column) for column in zip(*pieces, strict=True)))


def _joined(pieces: tuple[Tensor, ...]) -> Tensor:
    """Pieces one after the other; matrices as wide as the widest, filled up with 0 or -inf."""
    width = max(piece.shape[-1] for piece in pieces)
    fill = -torch.inf if pieces[0].is_floating_point() else 0
    return torch.cat(
        [torch.nn.functional.pad(p, (0, width - p.shape[-1]), value=fill) if p.ndim == 2 else p for p in pieces]
    )


@part
def captured(players: Players, batch: Batch) -> Batch:
    """Ask the teacher for its sparse targets, which the cache before it keeps: the rows of a stage that fills a cache.

    (tokens, mask) -> the cache; what is handed on is the number of each row alone

    Args:
        players: `teacher`, a `cache:` source.
        batch: columns `tokens` and `mask`.
    """
    players.teacher(batch, "ids")
    return Batch({"index": batch["index"]})
