"""How open a student is where a sentence begins, against models whose entropy there is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from limbeck.beds import arith
from limbeck.data import Table
from limbeck.errors import BadData
from limbeck.kernels.head import TokenHead
from limbeck.players import Player, Players
from limbeck.probes.openings import opening_entropy
from limbeck.roles import frozen


class Coin(torch.nn.Module):
    """Undecided among two tokens after "=" and ";", among four after all others."""

    tokenizer = arith.ALPHABET.tokenizer()

    def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
        opens = torch.isin(batch["tokens"], torch.tensor([arith.ALPHABET.ids[c] for c in "=;"]))
        few, many = torch.full((2, arith.ALPHABET.size), -torch.inf).unbind()
        few[:2], many[:4] = 0.0, 0.0
        return {"head": TokenHead(torch.where(opens[..., None], few, many), torch.eye(arith.ALPHABET.size))}


def players(net: torch.nn.Module) -> Players:
    return Players({"student": Player("student", frozen(), net)})


def test_only_openings_count() -> None:
    class Exact(Coin):
        def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
            made = super().forward(batch, want)["head"].hidden
            finite = made.masked_fill(made.isinf(), -1e4)
            return {"head": TokenHead(finite, torch.eye(arith.ALPHABET.size))}

    data = {"test": arith.rows([(34, 58), (12, 99)], 0)}
    assert opening_entropy(end=";")(players(Exact()), data) == pytest.approx(math.log(2))
    # with every token a sentence of its own, the others count too: of 20, "=" comes before 1 + 2 and ";" before 3
    assert math.log(2) < opening_entropy(end=".")(players(Exact()), data) < math.log(4)


def test_a_good_teacher_is_as_open_as_the_language() -> None:
    problems = arith.problems(64, "test", 0)
    data = {"test": arith.rows(problems, 0)}
    found = opening_entropy(end=";")(players(arith.teacher()), data)
    truth = sum(map(arith.entropy, problems)) / (3 * len(problems))  # two columns and the answer, of no choice
    assert found == pytest.approx(truth, abs=0.02)


def test_answers_without_a_target_are_refused() -> None:
    table = arith.rows([(34, 58)], 0)
    nothing = Table({**table.columns, "mask": torch.zeros_like(table.columns["mask"])})
    with pytest.raises(BadData, match="no target"):
        opening_entropy()(players(arith.teacher()), {"test": nothing})
