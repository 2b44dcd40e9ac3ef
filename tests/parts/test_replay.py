"""The memory of own answers: what it keeps, when it speaks, and that all processes have the same."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch, Moment
from limbeck.beds._text import columns
from limbeck.data import Table
from limbeck.errors import BadData, BadValue, BrokenRecipe
from limbeck.loop import Loop, Options
from limbeck.part import part
from limbeck.parts.optimizer import sgd
from limbeck.parts.replay import Replay, Rows, adaptive, hold_out, replay
from limbeck.parts.rollout import rollout
from limbeck.parts.token import cross_entropy
from limbeck.players import Player, Players
from limbeck.recipe import Learn, Phase, Recipe, Solve
from limbeck.rng import Rng
from limbeck.roles import built, frozen, learning
from tests.adapters.test_causal_lm import tiny

STEPS = 100


@part
def spoken(players: Players, batch: Batch) -> Batch:
    """In place of a rollout: every row says its own number."""
    rows = batch.rng.rows
    said = torch.stack((torch.ones_like(rows), 2 + rows, torch.full_like(rows, batch.at.step)), 1)
    mask = torch.tensor([False, True, True]).expand(len(rows), 3).contiguous()
    two = torch.full_like(rows, 2)
    return batch.with_(tokens=said, mask=mask, length=two + 1, prompt=two - 1)


def world(*, share: float = 0.0, capacity: int = 8, loss: float = 0.0) -> Players:
    memory = Replay(capacity, 16, 4, share)
    memory.loss.fill_(loss)
    memory.held.push(*(given_rows(0)[name] for name in ("tokens", "length", "prompt")))
    lm = CausalLM(tiny(LlamaConfig))
    return Players({"student": Player("student", frozen(), lm), "replay": Player("replay", built(replay()), memory)})


def given_rows(step: int, rows: slice = slice(0, 4), seed: int = 0) -> Batch:
    made = columns([[1], [1, 3], [1], [1]], [[4, 5], [6, 2], [7, 2], [8]])
    batch = Batch({k: c[rows] for k, c in made.items()}, Rng((seed, step), torch.arange(4)[rows]), Moment(step, STEPS))
    return batch


def coin(step: int, seed: int = 0) -> float:
    return float(Rng((seed, step), torch.zeros(1, dtype=torch.long)).uniform("own"))


def source(batch: Batch, step: int) -> str:
    if batch["tokens"].shape[1] != 3:
        return "given"
    return "said" if (batch["tokens"][:, 2] == step).all() else "kept"


def memory_of(players: Players) -> Replay:
    return players.replay.module  # type: ignore[return-value]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), max_size=6))
def test_it_keeps_what_a_queue_of_bounded_length_keeps(capacity: int, pushed: list[list[int]]) -> None:
    rows, queue = Rows(capacity, 5), deque[int](maxlen=capacity)
    for tokens in pushed:
        n = len(tokens)
        column = torch.tensor(tokens)[:, None]
        rows.push(column, torch.ones(n, dtype=torch.long), torch.zeros(n, dtype=torch.long))
        queue.extend(tokens)
        assert rows.filled == len(queue) and sorted(rows.tokens[: rows.filled, 0].tolist()) == sorted(queue)


def test_rows_come_back_as_they_were() -> None:
    batch, rows = given_rows(0), Rows(6, 9)
    rows.push(batch["tokens"], batch["length"], batch["prompt"])
    back = rows.take(torch.arange(4))
    assert all(torch.equal(back[name], batch[name]) for name in ("tokens", "mask", "length", "prompt"))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_step_takes_what_the_rule_says(share: float) -> None:
    players, filled = world(share=share, loss=torch.inf), 0
    taken = []
    for step in range(STEPS):
        u = coin(step)
        fresh = u < share * (1 - step / STEPS) or (u < share and filled < 8)
        truth = "said" if fresh else "kept" if u < share else "given"
        got = adaptive(on_policy=spoken())(players, given_rows(step))
        assert source(got, step) == truth
        filled += 4 * fresh
        taken.append(truth)
    if share:
        assert {"said", "kept"} <= set(taken) and ("given" in taken) == (share < 1)
    assert int(memory_of(players).spoken) == 4 * 2 * taken.count("said")


def test_the_share_rises_when_the_held_out_loss_has_grown_and_only_then() -> None:
    players, shares = world(), []
    memory = memory_of(players)
    memory.held.seen.zero_()
    with pytest.raises(BrokenRecipe, match="holds no held-out rows"):
        adaptive(on_policy=spoken(), checks=STEPS)(players, given_rows(1))
    hold_out().spec.fn(players, given_rows(0), {})
    rows = given_rows(0)
    logits = players.student.module({"tokens": rows["tokens"]}, frozenset({"logits"}))["logits"]  # type: ignore[misc]
    logp = logits.log_softmax(-1)[:, :-1].gather(-1, rows["tokens"][:, 1:, None])[..., 0]
    truth = -logp[rows["mask"][:, 1:]].mean()
    torch.testing.assert_close(memory.loss.float(), truth.detach())
    for step in range(STEPS):
        if step == 50:
            memory.loss -= 0.2  # as if the student had become worse by that
        adaptive(on_policy=spoken(), checks=10)(players, given_rows(step))
        shares.append(float(memory.share))
    assert shares == [0.0] * 50 + [0.1] * 50
    torch.testing.assert_close(memory.loss.float(), truth.detach())


def test_the_share_never_exceeds_one() -> None:
    players = world(share=0.95, loss=-10.0)
    adaptive(on_policy=spoken(), checks=STEPS)(players, given_rows(1))
    assert float(memory_of(players).share) == 1


def test_old_answers_are_drawn_without_repeats_and_two_processes_draw_those_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def played(rows: slice) -> tuple[list[Tensor], Players]:
        players = world(share=1.0, loss=torch.inf)
        return [adaptive(on_policy=spoken())(players, given_rows(s, rows))["tokens"] for s in range(40)], players

    whole, alone = played(slice(0, 4))
    assert all(len(tokens.unique(dim=0)) == 4 for tokens in whole)

    shares = [slice(0, 2), slice(2, 4)]
    calls: list[list[Tensor]] = []

    def gathered(pieces: list[Any], mine: list[Tensor]) -> None:
        calls.append(mine)
        step = int(mine[0][0, 2])
        for i, rows in enumerate(shares):  # what each process would send is known: its rows say their numbers
            said = spoken()(Players({}), given_rows(step, rows))
            pieces[i] = [said[name] for name in ("tokens", "length", "prompt")]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gathered)
    halves = [played(rows) for rows in shares]
    for step in range(40):
        torch.testing.assert_close(torch.cat([half[0][step] for half in halves]), whole[step])
    for _, players in halves:
        for name, value in memory_of(players).state_dict().items():
            assert torch.equal(value, memory_of(alone).state_dict()[name]), name
    assert calls


def recipe() -> Recipe:
    on_policy = adaptive(on_policy=rollout(max_new_tokens=4), checks=6, eps=-10.0, rise=0.5)
    student = Phase("student", ("student",), cross_entropy(), batch=on_policy)
    return Recipe(
        key="r", title="", paper="", family="", kind="", learns="", teacher="",
        players={"student": learning(sgd(lr=0.1)), "replay": built(replay(capacity=6, width=9, held=3))},
        stages=(
            Solve("hold", hold_out(), ("replay",), data="valid"),
            Learn("learn", (student,), steps=12, batch_size=4),
        ),
    )  # fmt: skip


def test_a_run_speaks_keeps_and_tells_again() -> None:
    made = Table(columns([[2], [2, 5], [2, 7], [2, 9]] * 3, [[4, 5], [6, 1], [7, 3, 1], [8]] * 3))
    loop = Loop(recipe(), {"student": CausalLM(tiny(LlamaConfig))}, {"train": made, "valid": made}, Options(seed=1))
    loop.execute()
    memory = memory_of(loop.players)
    assert float(memory.share) == 1 and memory.said.filled == 6 and memory.held.filled == 3
    assert 0 < int(memory.spoken) <= 12 * 4 * 4
    assert (memory.said.length <= 2 + 4).all() and (memory.said.length > memory.said.prompt).all()


def test_rows_that_do_not_fit_and_memories_of_nothing_are_refused() -> None:
    rows = Rows(2, 3)
    with pytest.raises(BadData, match="a row of 4 tokens does not fit into a memory 3 wide"):
        rows.push(torch.ones(1, 4, dtype=torch.long), torch.tensor([4]), torch.tensor([1]))
    with pytest.raises(BadValue, match=r"needs places and a share in \[0, 1\], got 0 x 512"):
        replay(capacity=0)(Players({}), given_rows(0))
