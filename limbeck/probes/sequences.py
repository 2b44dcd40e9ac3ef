"""How well sampled sequences follow the law of a bed.

Shapes: N samples, T letters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import Expr, part
from limbeck.parts.dirichlet import one_pass
from limbeck.players import Players
from limbeck.rng import Rng

__all__ = ["chain_nll", "sampled_letters", "word_divergence"]

ONE_PASS = one_pass()


def sampled_letters(players: Players, data: Mapping[str, Source], draw: Expr, rows: int) -> tuple[Tensor, Batch]:
    """Sample a sequence for each of the first rows of the test split, with the noise of that row.

    Args:
        players: the student that is sampled.
        data: the test split has a column `tokens`.
        draw: the sampler.
        rows: how many, at most.

    Returns:
        (N, T) letters, and the rows that they are compared with.
    """
    index = torch.arange(min(rows, len(data["test"])))
    where = next((p.device for player in players.values() for p in player.params), index.device)
    truth = Batch(data["test"].take(index), rng=Rng(("probe",), index)).to(where)
    with torch.no_grad():
        return draw(players, truth), truth  # type: ignore[operator]


@part
def chain_nll(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_PASS, rows: int = 4_000, oracle: str = "oracle"
) -> float:
    """What the samples cost under the law of the data.

    mean_i -log p(z_i) / T

    Args:
        players: the student that is sampled; the oracle answers the exact "log_likelihood" on `tokens`.
        data: the test split has a column `tokens`.
        draw: the sampler.
        rows: how many samples, at most.
        oracle: the name of the oracle.

    Returns:
        Nats a letter; the entropy of the law is what its own samples cost.

    Raises:
        UnknownName: there is no such oracle.
    """
    tokens, truth = sampled_letters(players, data, draw, rows)
    found = players[oracle](truth.with_(tokens=tokens), "log_likelihood")
    return -float(found.double().mean()) / tokens.shape[1]


def _words(tokens: Tensor, length: int, kinds: int) -> Tensor:
    """How often each word stands anywhere, a probability with half a count added to each."""
    place = kinds ** torch.arange(length, device=tokens.device)
    words = (tokens.unfold(1, length, 1) * place).sum(2)
    count = torch.bincount(words.flatten(), minlength=kinds**length).double() + 0.5
    return count / count.sum()


@part
def word_divergence(
    players: Players, data: Mapping[str, Source], *, draw: Expr = ONE_PASS, rows: int = 4_000, length: int = 3
) -> float:
    """How far the short words of samples are from those of the data.

    KL(words of samples | words of data), words of three neighbouring letters

    Args:
        players: the student that is sampled.
        data: the test split has a column `tokens`.
        draw: the sampler.
        rows: how many samples and data, at most.
        length: letters of a word.

    Returns:
        Nats, at least 0.

    Raises:
        UnknownName: the test split has no column `tokens`.

    Source: the diversity that arXiv:2402.05841 measures by a KL divergence, here over words.
    """
    tokens, truth = sampled_letters(players, data, draw, rows)
    kinds = int(max(tokens.max(), truth.tokens.max())) + 1
    p, q = _words(tokens, length, kinds), _words(truth.tokens, length, kinds)
    return float((p * (p / q).log()).sum())
