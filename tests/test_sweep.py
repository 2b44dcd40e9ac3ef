"""Sweeps: a table of figures that is what the runs by hand give, made once and read from the journal after."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import limbeck.sweep
from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.errors import UnknownName
from limbeck.index import load
from limbeck.loop import Loop, Options
from limbeck.override import override
from limbeck.part import part
from limbeck.parts.optimizer import adamw
from limbeck.players import Players
from limbeck.probes.classification import accuracy, nll
from limbeck.recipe import Learn, Phase, Recipe, Solve, Sub
from limbeck.roles import learning
from limbeck.run import Run
from tests.conftest import Net

OVER = {"student.optimizer.lr.start": (1e-3, 1e-1), "distill.epochs": (2, 8)}
PROBES = {"accuracy": accuracy(), "nll": nll()}


@part
def best(players: Players, batch: Batch, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The point of the lowest loss."""
    return {}, {"best": float(batch["point"][batch["nll"].argmin()])}


def world() -> dict[str, Table]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(96, 2, generator=draw)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return {"train": Table({"x": x[:64], "y": y[:64]}), "test": Table({"x": x[64:], "y": y[64:]})}


def recipe(**changes: Any) -> Recipe:
    sweep: dict[str, Any] = {"recipe": "alone", "over": OVER, "probes": PROBES, "into": "grid"} | changes
    return Recipe(
        key="grid", title="A grid", paper="https://example.org", family="classic", kind="study", learns="nothing",
        teacher="none", players={"student": learning(adamw())},
        stages=(Sub("sweep", **sweep), Solve("choose", best(), data="grid")), product="grid",
    )  # fmt: skip


def test_the_table_holds_what_each_run_gives_by_itself(tmp_path: Path) -> None:
    net = Net(seed=3)
    loop = Loop(recipe(), {"student": copy.deepcopy(net)}, dict(world()), Options(seed=5))
    loop.execute()
    table = loop.data["grid"].take(torch.arange(4))
    assert table["point"].tolist() == [0, 1, 2, 3] and len(loop.data["grid"]) == 4
    points = [(1e-3, 2), (1e-3, 8), (1e-1, 2), (1e-1, 8)]  # the last path turns fastest
    for i, (lr, epochs) in enumerate(points):
        set_by_hand = {"student.optimizer.lr.start": lr, "distill.epochs": epochs}
        alone = Loop(override(load("alone"), set_by_hand), {"student": copy.deepcopy(net)}, dict(world()),
                     Options(seed=5))  # fmt: skip
        alone.execute()
        figures = alone.probe(PROBES)
        assert table["nll"][i].item() == pytest.approx(figures["nll"], abs=1e-6)
        assert table["accuracy"][i].item() == pytest.approx(figures["accuracy"], abs=1e-6)
    assert len({round(v, 5) for v in table["nll"].tolist()}) == 4


def test_the_players_of_the_parent_do_not_change() -> None:
    net = Net(seed=3)
    before = copy.deepcopy(net.state_dict())
    loop = Loop(recipe(), {"student": net}, dict(world()), Options())
    loop.execute()
    assert all(torch.equal(before[k], t) for k, t in loop.players.student.module.state_dict().items())  # type: ignore[union-attr]


def test_every_run_starts_from_where_the_parent_stands() -> None:
    warm = Learn("warm", load("alone").stages[0].phases, epochs=20.0, batch_size=32)  # type: ignore[union-attr]
    warmed = recipe(over={"distill.epochs": (0.01,)})
    warmed = Recipe(**{**warmed.__dict__, "stages": (warm, *warmed.stages)})
    cold = recipe(over={"distill.epochs": (0.01,)})
    figures = []
    for chosen in (warmed, cold):
        chosen = override(chosen, {"student.optimizer.lr": 3e-2})
        loop = Loop(chosen, {"student": Net(seed=3)}, dict(world()), Options())
        loop.execute()
        figures.append(loop.data["grid"].take(torch.arange(1))["nll"].item())  # type: ignore[union-attr]
    assert figures[0] < figures[1] - 0.2


def test_finished_points_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counting(key: str) -> Recipe:
        asked.append(key)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return load(key)

    monkeypatch.setattr(limbeck.sweep, "load", counting)

    def run(resume: bool) -> Loop:
        with Run(tmp_path / "run", {"key": "grid"}, resume=resume) as traces:
            loop = Loop(recipe(), {"student": Net(seed=3)}, dict(world()), Options(), traces)
            loop.execute()
            return loop

    with pytest.raises(KeyboardInterrupt):
        run(resume=False)
    resumed = run(resume=True)
    assert len(asked) == 3 + 2  # two points were journalled, the third and fourth were left
    straight = Loop(recipe(), {"student": Net(seed=3)}, dict(world()), Options())
    straight.execute()
    rows = torch.arange(4)
    ours, theirs = (loop.data["grid"].take(rows) for loop in (resumed, straight))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)  # type: ignore[arg-type]


def test_a_recipe_that_does_not_exist_is_named() -> None:
    loop = Loop(recipe(recipe="alonee"), {"student": Net()}, dict(world()), Options())
    with pytest.raises(UnknownName, match="did you mean 'alone'"):
        loop.execute()


def test_phases_of_the_swept_recipe_are_the_packages_own() -> None:
    (stage,) = load("alone").stages
    assert isinstance(stage, Learn) and isinstance(stage.phases[0], Phase)
