"""DistillSpec: its loss is the share that a target refuses, on texts of whom the variant says."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds import oracle_lm
from limbeck.index import load
from limbeck.override import variant
from limbeck.parts.rollout import rollout
from limbeck.players import Player, Players
from limbeck.probes.speculative import acceptance
from limbeck.recipe import Phase
from limbeck.roles import frozen


def phase(name: str = "") -> Phase:
    recipe = load("distillspec")
    recipe = variant(recipe, name) if name else recipe
    return recipe.stages[-1].phases[0]  # type: ignore[union-attr, no-any-return]


def test_its_loss_where_the_target_writes_is_the_share_that_is_refused() -> None:
    nets = {"teacher": oracle_lm.oracle(0), "student": oracle_lm.student(1)}
    players = Players({name: Player(name, frozen(), net.eval()) for name, net in nets.items()})
    data = oracle_lm.splits(0, train=6000, held_out=12)
    batch = Batch(data["train"].take(torch.arange(6000)))
    with torch.no_grad():
        loss = sum(float(term) for term in phase().loss.total(players, batch).values())
    # a text's mean over six tokens lies in [0, 1]: Hoeffding's bound, exceeded once in a million draws
    assert abs(loss - (1 - acceptance()(players, data))) < math.sqrt(math.log(2e6) / (2 * 6000))


@pytest.mark.parametrize(("name", "like"), [("", "student"), ("teacher-data", "teacher"), ("given-data", "")])
def test_its_data_are_said_by_whom_the_variant_names(name: str, like: str) -> None:
    nets = {"teacher": oracle_lm.oracle(0), "student": oracle_lm.student(1)}
    players = Players({who: Player(who, frozen(), net.eval()) for who, net in nets.items()})
    batch = Batch(oracle_lm.splits(0, train=64, held_out=12)["train"].take(torch.arange(64)))
    made = phase(name).batch(players, batch)  # type: ignore[operator, misc]
    if not like:
        assert torch.equal(made.tokens, batch.tokens)
        return
    said = rollout(max_new_tokens=64).on(student=like)(players, batch)
    assert torch.equal(made.tokens, said.tokens) and not torch.equal(made.tokens[:, :7], batch.tokens)
