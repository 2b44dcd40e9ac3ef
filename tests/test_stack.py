"""Runs side by side end where they end one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck.abreast import run_abreast
from limbeck.adapters.modules import Plain
from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.claim import arm_loop, tried_on
from limbeck.index import load
from limbeck.loop import Loop
from limbeck.override import override
from limbeck.recipe import Learn
from limbeck.rng import Each, Rng, numbered
from limbeck.stack import Stack, _shares, clip_each

STEPS = 12


def maker(key: str, **settings: object) -> partial[Loop]:
    claim, sized, _ = tried_on(load(key))
    stages = tuple(replace(s, steps=STEPS, clip=0.5) if isinstance(s, Learn) else s for s in sized.stages)
    recipe = override(replace(sized, stages=stages), settings)
    return partial(arm_loop, recipe, load_bed(claim.bed), seats=claim.players)


@pytest.mark.parametrize("key", ["alone", "feature-mse", "flow-map-self-distill"])
def test_three_seeds_at_once_equal_three_runs(key: str) -> None:
    make = maker(key)
    together = run_abreast(make, (0, 1, 2))
    assert together is not None
    for seed, loop in enumerate(together):
        alone = make(seed)
        alone.execute()
        for name, player in alone.players.items():
            for k, w in player.module.state_dict().items():
                assert (w - loop.players[name].module.state_dict()[k]).norm() <= 1e-5 * w.norm(), (seed, name, k)


@pytest.mark.parametrize("key", ["kd", "gkd", "mtt", "stasc"])
def test_runs_that_cannot_go_side_by_side_are_left_alone(key: str) -> None:
    assert run_abreast(maker(key), (0, 1, 2)) is None


def test_one_run_that_diverges_sends_all_back() -> None:
    assert run_abreast(maker("alone", **{"student.optimizer.lr": 1e30}), (0, 1, 2)) is None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_rows_come_back_where_they_were(seats: list[int]) -> None:
    seat = torch.tensor(seats)
    into, back = _shares(seat, 4)
    assert torch.equal(into.flatten()[back], torch.arange(len(seats)))
    assert all(int(seat[r]) == n for n, rows in enumerate(into.tolist()) if n in seats for r in rows)


def test_a_stack_answers_uneven_rows_by_their_own_net() -> None:
    nets = [Plain(nn.Linear(3, 2)) for _ in range(3)]
    x, kept = torch.randn(9, 3), torch.tensor([0, 1, 4, 6, 7, 8])
    rng = Rng((Each((0, 1, 2)),), numbered(9, 3)[kept])
    said = Stack(nets)(Batch({"x": x[kept]}, rng), frozenset({"logits"}))["logits"]
    torch.testing.assert_close(said, torch.stack([nets[r // 3].net(x[r]) for r in kept.tolist()]))


def test_streams_of_a_stack_are_those_of_its_runs() -> None:
    both = Rng((Each((4, 7)), "fit"), numbered(6, 2)).fold("loss").normal("eps", 2)
    apart = [Rng((seed, "fit"), torch.arange(3)).fold("loss").normal("eps", 2) for seed in (4, 7)]
    assert torch.equal(both, torch.cat(apart))


def test_gradients_are_clipped_net_by_net() -> None:
    shapes, scales = ((2, 3), (4,)), torch.tensor([10.0, 0.01])
    params = [nn.Parameter(torch.zeros(2, *shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p) * scales.view(-1, *[1] * (p.ndim - 1))
    expected = []
    for n in range(2):
        own = [nn.Parameter(p[n].detach().clone()) for p in params]
        for p, q in zip(own, params, strict=True):
            p.grad = q.grad[n].clone()
        nn.utils.clip_grad_norm_(own, 1.0)
        expected.append([p.grad for p in own])
    clip_each(params, 1.0)
    for n in range(2):
        for p, want in zip(params, expected[n], strict=True):
            torch.testing.assert_close(p.grad[n], want)
