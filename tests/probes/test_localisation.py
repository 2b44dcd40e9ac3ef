"""Where a teacher disagrees: planted at one token, it is found there and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds._text import BOS, EOS, Alphabet, columns
from limbeck.data import Table
from limbeck.kernels.head import TokenHead
from limbeck.part import part
from limbeck.parts.spans import Annotation
from limbeck.players import Player, Players
from limbeck.probes.localisation import before_the_error, divergence_of_tokens
from limbeck.roles import frozen

ABC = Alphabet("abcdx")
X = ABC.encode("x")[0]


class Net(torch.nn.Module):
    """Even odds at every place, but for a teacher that is surer at two of them: before x, and elsewhere by less."""

    def __init__(self, at_x: float = 0.0, elsewhere: float = 0.0) -> None:
        super().__init__()
        self.tokenizer, self.family, self.at_x, self.elsewhere = ABC.tokenizer(), "abc", at_x, elsewhere

    def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
        following = torch.roll(batch["tokens"], -1, 1)
        logits = torch.zeros(*following.shape, ABC.size)
        logits[..., 0] = torch.where(following == X, self.at_x, self.elsewhere)
        return {"head": TokenHead(logits, torch.eye(ABC.size))}


@part
def at_x(completion: str, row: Mapping[str, Any]) -> Annotation:
    place = completion.find("x")
    return ([(place, place + 1)] if place >= 0 else []), ""


@part
def wrong_with_x(players: Players, batch: Batch) -> Batch:
    return batch.with_(reward=(~(batch.tokens == X).any(1)).float())


def world(said: list[str], **teacher: float) -> tuple[Players, Table]:
    table = Table(columns([[BOS, *ABC.encode("a")]] * len(said), [[*ABC.encode(text), EOS] for text in said]))
    nets = {"student": Net(), "teacher": Net(**teacher)}
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()}), table


def kl(logit: float) -> float:
    """KL from even odds to a distribution with one raised logit, in closed form."""
    n = ABC.size
    return math.log(math.exp(logit) + n - 1) - logit / n - math.log(n)


def test_divergence_of_tokens_is_the_closed_form() -> None:
    players, table = world(["abx", "c"], at_x=2.0, elsewhere=0.5)
    batch = Batch(dict(table.take(torch.arange(2))))
    got = divergence_of_tokens(players, batch)
    want = [kl(0.5), kl(0.5), kl(2.0), kl(0.5)]
    torch.testing.assert_close(got[0][batch.mask[0]], torch.tensor(want))
    assert not got[~batch.mask].any()


def test_the_share_before_the_error_is_the_ratio_of_closed_forms() -> None:
    players, table = world(["abx", "cxd", "ab", "x"], at_x=2.0, elsewhere=0.5)
    got = before_the_error(answered=wrong_with_x(), annotator=at_x())(players, {"test": table})
    assert got == pytest.approx(kl(0.5) / kl(2.0), rel=1e-4)


def test_without_a_wrong_answer_there_is_no_number() -> None:
    players, table = world(["ab", "c"], at_x=2.0)
    assert math.isnan(before_the_error(answered=wrong_with_x(), annotator=at_x())(players, {"test": table}))
