"""How well embeddings find documents, with queries and documents embedded by one player or by two.

Legend of shapes: Q queries, N documents, D features, K places of a ranking.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.errors import Mismatch
from limbeck.part import Part, part
from limbeck.players import Players

__all__ = ["excess", "gain", "ndcg", "shortfall"]


def gain(score_QN: Tensor, relevant_QN: Tensor, k: int) -> Tensor:
    """The normalised discounted cumulative gain of rankings by score.

    DCG = sum_{i <= k} [the i-th document is relevant] / log2(i + 1);  nDCG = DCG / the largest possible DCG

    Args:
        score_QN: the larger, the nearer to the top.
        relevant_QN: bool; every query has a relevant document.
        k: places that count.

    Returns:
        (Q,).

    Example:
        >>> gain(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[False, True, False]]), 2)
        tensor([0.6309], dtype=torch.float64)

    Source: Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques", 2002.
    """
    k = min(k, score_QN.shape[1])
    discount_K = 1 / torch.arange(2, k + 2, dtype=torch.float64).log2()
    found_QK = relevant_QN.gather(1, score_QN.topk(k, 1).indices).double()
    ideal_QK = relevant_QN.double().sort(1, descending=True).values[:, :k]
    return (found_QK @ discount_K) / (ideal_QK @ discount_K)


def _seen(embedding: Tensor, dims: int, levels: int) -> Tensor:
    """Unit vectors of what is left after truncation and rounding, both of which an index does to save memory."""
    kept = embedding[:, : dims or None]
    if levels:
        step = kept.abs().amax(1, keepdim=True) / levels
        kept = (kept / step).round()
    return normalize(kept, dim=1)


@part(higher=True)
def ndcg(
    players: Players,
    data: Mapping[str, Source],
    *,
    queries: str = "student",
    documents: str = "student",
    k: int = 10,
    dims: int = 0,
    levels: int = 0,
) -> float:
    """The nDCG of ranking documents by the cosine of their embeddings with the query's.

    mean_q DCG_q / ideal DCG_q; a document is relevant if its class is the query's

    Args:
        players: they answer "embedding".
        data: the test rows have columns `document` (bool) and `y`.
        queries: who embeds the queries.
        documents: who embeds the documents: another player for asymmetric retrieval.
        k: places that count.
        dims: the leading features that are kept; 0 for all.
        levels: the largest integer that a feature is rounded to, 127 for int8; 0 for no rounding.

    Raises:
        UnknownName: there is no such player, or it does not answer "embedding".
        Mismatch: embeddings of different sizes.

    Source: Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques", 2002.
    """
    whole = data["test"].take(torch.arange(len(data["test"])))
    is_document, rows = whole["document"], []
    assert isinstance(is_document, Tensor)
    for chosen in (~is_document, is_document):
        rows.append(Batch(data["test"].take(chosen.nonzero()[:, 0])))
    vectors = [players[who](some, "embedding") for who, some in zip((queries, documents), rows, strict=True)]
    if vectors[0].shape[1] != vectors[1].shape[1]:
        sizes = f"{vectors[0].shape[1]} and {vectors[1].shape[1]}"
        raise Mismatch(f"{queries} and {documents} give embeddings of {sizes} features; one index holds one size")
    query_QD, document_ND = (_seen(v.cpu(), dims, levels) for v in vectors)
    relevant_QN = rows[0].y[:, None].cpu() == rows[1].y[None].cpu()
    return float(gain(query_QD @ document_ND.mT, relevant_QN, k).mean())


@part
def shortfall(
    players: Players, data: Mapping[str, Source], *, of: Part = ndcg(), than: Part = ndcg(queries="teacher")
) -> float:
    """By what share one probe is below another.

    max(0, 1 - of / than)

    Args:
        players: as both probes ask them.
        data: as both probes read it.
        of: the probe that may be below.
        than: the probe that it is measured by.

    Raises:
        ZeroDivisionError: `than` is 0.
    """
    return max(0.0, 1 - of(players, data) / than(players, data))


@part
def excess(players: Players, data: Mapping[str, Source], *, of: Part = shortfall(), over: Part = shortfall()) -> float:
    """By how much one probe is above another.

    max(0, of - over)

    Args:
        players: as both probes ask them.
        data: as both probes read it.
        of: the probe that may be above.
        over: the probe that it is measured by.

    Raises:
        TypeError: a probe that is no number.
    """
    return max(0.0, of(players, data) - over(players, data))
