"""Ensembles of language models: the fused form of a mean of logits, against the logits themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.beds._text import tiny_llama
from limbeck.errors import Mismatch
from limbeck.kernels.head import TokenHead
from limbeck.parts.optimizer import sgd
from limbeck.parts.token import forward_kl
from limbeck.players import build
from limbeck.roles import ensemble, frozen, learning

GAME = {"student": learning(sgd(lr=0.1)), "a": frozen(), "b": frozen(), "teacher": ensemble("a", "b")}


def rows() -> Batch:
    """The same rows, of which nobody has been asked yet."""
    return Batch({"tokens": torch.arange(24).view(3, 8), "mask": (torch.arange(8) > 2).expand(3, 8).contiguous()})


class Changed(nn.Module):
    """A net whose head is changed before it is given away."""

    def __init__(self, net: nn.Module, **change) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, batch, want):
        answer = self.net(batch, frozenset({"head"}))["head"]
        answer = replace(answer, **self.change)
        return {"head": answer, "logits": answer.logits()}


def llama(seed: int, width: int = 16) -> CausalLM:
    return CausalLM(tiny_llama(30, seed, width=width, layers=1)).double()


def test_the_mean_head_makes_the_mean_of_the_logits_whatever_widths_biases_and_scales() -> None:
    batch = rows()
    bias = torch.randn(30, generator=torch.Generator().manual_seed(0)).double()
    nets = {"a": Changed(llama(1), bias=bias, scale=0.5), "b": llama(2, 24), "student": llama(3)}
    players = build(GAME, nets, batch)
    head, logits = players.teacher(batch, "head", "logits")
    assert isinstance(head, TokenHead) and head.hidden.shape == (3, 8, 40)
    torch.testing.assert_close(head.logits(), logits)
    apart = [nets[name](batch, frozenset({"logits"}))["logits"] for name in ("a", "b")]
    torch.testing.assert_close(logits, sum(apart) / 2)


def test_a_student_learns_from_the_mean_of_logits_and_not_of_probabilities() -> None:
    batch = rows()
    players = build(GAME, {"a": llama(1), "b": llama(2), "student": llama(3)}, batch)
    found = forward_kl().spec.fn(players, batch, batch["mask"], temperature=2.0)
    z = {n: players[n](batch, "logits")[:, 2:-1] for n in ("a", "b", "student")}
    p = ((z["a"] + z["b"]) / 2 / 2.0).log_softmax(-1)
    by_hand = (p.exp() * (p - (z["student"] / 2.0).log_softmax(-1))).sum()
    torch.testing.assert_close(found, by_hand)


def test_heads_that_have_no_mean_are_refused() -> None:
    small = CausalLM(tiny_llama(29, 2, width=16, layers=1)).double()
    for other in (small, Changed(llama(2), softcap=5.0)):
        players = build(GAME, {"a": llama(1), "b": other, "student": llama(3)}, rows())
        with pytest.raises(Mismatch, match="one vocabulary and without a soft cap"):
            players.teacher(rows(), "head")
