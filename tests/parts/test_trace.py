"""Traces keep what was recorded, in order, through a crash; the first rows are the first rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.errors import BadData, UnknownName
from limbeck.loop import Loop, Options
from limbeck.parts.classification import cross_entropy
from limbeck.parts.optimizer import sgd
from limbeck.parts.trace import Trace, first, record, trace
from limbeck.players import Players
from limbeck.probes.classification import nll
from limbeck.recipe import Learn, Phase, Recipe, Repeat, Solve
from limbeck.roles import built, learning
from limbeck.run import Run
from tests.conftest import Net


def recipe() -> Recipe:
    learn = Learn("learn", (Phase("student", ("student",), cross_entropy()),), steps=1, batch_size=8)
    return Recipe(
        key="followed", title="Followed", paper="https://example.org", family="classic", kind="study", learns="student",
        teacher="none",
        players={"student": learning(sgd(lr=0.5)), "trace": built(trace(series=("nll", "few"), room=5))},
        stages=(Repeat("rounds", (
            learn, Solve("all", record(figure=nll(), into="nll"), ("trace",), data="test"),
            Solve("few", record(figure=nll(), into="few", limit=3), ("trace",), data="test"),
        ), times=4),),
    )  # fmt: skip


def world() -> dict[str, Table]:
    x = torch.randn(24, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return {"train": Table({"x": x[:16], "y": y[:16]}), "test": Table({"x": x[16:], "y": y[16:]})}


def test_a_trace_holds_what_the_probe_gives_after_each_round() -> None:
    loop = Loop(recipe(), {"student": Net()}, dict(world()), Options())
    loop.execute()
    seen = loop.players.trace.read("nll")
    assert len(seen) == 4 and len(set(seen.tolist())) == 4
    assert seen[-1].item() == pytest.approx(loop.probe({"nll": nll()})["nll"], abs=1e-6)
    rows = loop.data["test"].take(torch.arange(3))
    logp = loop.players.student.module(rows, frozenset({"logits"}))["logits"].log_softmax(-1)  # type: ignore[misc]
    by_hand = -logp.gather(1, rows["y"][:, None]).mean().item()  # type: ignore[index]
    assert loop.players.trace.read("few")[-1].item() == pytest.approx(by_hand, abs=1e-6)


def test_a_trace_comes_back_after_a_crash(tmp_path: Path) -> None:
    def run(stop: int) -> Loop:
        with Run(tmp_path, {"key": "followed"}, resume=True) as traces:
            loop = Loop(recipe(), {"student": Net()}, dict(world()), Options(max_steps=stop), traces)
            loop.execute()
            return loop

    run(2)
    resumed, straight = run(0), Loop(recipe(), {"student": Net()}, dict(world()), Options())
    straight.execute()
    assert torch.equal(resumed.players.trace.figures, straight.players.trace.figures)


def test_series_that_do_not_exist_and_full_ones_are_refused() -> None:
    kept = Trace(("golden",), room=1)
    kept.add("golden", 1.0)
    with pytest.raises(BadData, match="room for 1 figures of 'golden'"):
        kept.add("golden", 2.0)
    with pytest.raises(UnknownName, match="did you mean 'golden'"):
        kept.read("goldn")


def test_first_keeps_the_first_rows_or_all() -> None:
    batch = Batch({"x": torch.arange(5)})
    assert first(rows=2)(Players({}), batch).x.tolist() == [0, 1]
    assert first(rows=9)(Players({}), batch).size == 5
