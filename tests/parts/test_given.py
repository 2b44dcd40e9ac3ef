"""Losses on the given answer beside a sampled one: what they would be on the data itself."""

from __future__ import annotations

import torch
from transformers import LlamaConfig

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.beds._text import columns
from limbeck.parts.given import given_cross_entropy, keep_given
from limbeck.parts.rollout import rollout
from limbeck.parts.token import cross_entropy, sequence_mean
from limbeck.players import Player, Players
from limbeck.roles import frozen
from tests.adapters.test_causal_lm import tiny

PLAYERS = Players({"student": Player("student", frozen(), CausalLM(tiny(LlamaConfig)))})
DATA = Batch(columns([[2, 5], [2, 7, 9]], [[6, 8, 4, 1], [4, 1]]))
STATES = keep_given() >> rollout(max_new_tokens=7)


def test_it_is_the_loss_that_the_data_alone_would_give() -> None:
    truth = (sequence_mean() * cross_entropy()).total(PLAYERS, DATA)["loss"]
    said = STATES(PLAYERS, DATA)
    torch.testing.assert_close(given_cross_entropy().total(PLAYERS, said)["loss"], truth)
    by_row = [
        cross_entropy().total(PLAYERS, DATA.rows(slice(i, i + 1)).with_(mask=DATA.mask[i : i + 1]))["loss"]
        for i in (0, 1)
    ]
    torch.testing.assert_close(truth, sum(by_row) / 2)


def test_it_adds_up_over_pieces_of_a_batch() -> None:
    said = STATES(PLAYERS, DATA)
    whole = given_cross_entropy().total(PLAYERS, said)["loss"]
    pieces = [given_cross_entropy().total(PLAYERS, said.rows(slice(i, i + 1)))["loss"] for i in (0, 1)]
    torch.testing.assert_close(sum(pieces), whole)
