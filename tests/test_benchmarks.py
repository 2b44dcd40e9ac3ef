"""Benchmarks of few-step distillation run, at a size that says nothing: each gives a row a case."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from benchmarks import fields, footprint, matching, nets, sampled
from benchmarks.__main__ import TITLES


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    tiny = {"tiny": nets.NETS["tiny"]}
    monkeypatch.setattr(nets, "NETS", tiny | {"UNet": nets.NETS["UNet"]})
    for module in (fields, matching):
        monkeypatch.setattr(module, "NETS", tiny)
    monkeypatch.setattr(footprint, "NETS", ("tiny",))
    for module in (fields, footprint, matching, sampled):
        monkeypatch.setattr(module, "REPEATS", 1)
    monkeypatch.setattr(sampled, "STUDENTS", (1,))
    monkeypatch.setattr(sampled, "TEACHER", 2)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


def shape(module: ModuleType) -> list[int]:
    """The cells of each line of a table."""
    return [line.count("|") - 1 for line in module.table()]


def test_a_row_a_step() -> None:
    assert shape(fields) == [7] * (2 + len(fields.WORKS))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_memory_a_step() -> None:
    assert shape(footprint) == [7] * (2 + len(fields.WORKS))


def test_a_peer_that_is_not_there_is_not_measured() -> None:
    assert shape(matching) in ([-1], [6] * 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pipelines_are_sampled() -> None:
    assert shape(sampled) == [6] * 4


def test_steps_in_turns_are_counted_apart() -> None:
    """What is done between the updates of a loop is not counted as its own."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def loop() -> None:
        for _ in range(fields.WARM + 3):
            weight.grad = torch.ones(1)
            optimizer.step()

    def other() -> None:
        sum(range(200_000))
        optimizer.step()

    found = fields.in_turns(loop, [other])
    assert len(found) == 3 and all(mine < its for mine, its in found)


def test_every_benchmark_has_a_title() -> None:
    assert all(hasattr(importlib.import_module(f"benchmarks.{name}"), "table") for name in TITLES)
