"""The detector on curves whose departure is known, and the estimate of the metric against enumeration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.beds import oracle_lm
from limbeck.beds.oracle_lm_taught import student, teacher
from limbeck.data import Table
from limbeck.players import Player, Players
from limbeck.probes.enumerated import sequence_kl_forward
from limbeck.probes.hacking import departure, left, lowest, onset, rise
from limbeck.probes.language import token_kl
from limbeck.roles import frozen


def law(points: int, slope: float = 0.5) -> list[float]:
    return [float(n**-slope) for n in range(1, points + 1)]


def bent(points: int, at: int, slope: float = 0.5) -> list[float]:
    """A power law up to a moment, and a rise of a tenth at each one after."""
    flat = law(points, slope)
    return [m if n < at else flat[at - 2] * 1.1 ** (n - at + 1) for n, m in enumerate(flat, 1)]


@given(st.integers(4, 15), st.floats(0.1, 2.0))
def test_the_moment_of_departure_is_found(at: int, slope: float) -> None:
    assert departure(bent(16, at, slope), law(16)) == at


@settings(max_examples=40)
@given(st.integers(0, 1000), st.floats(0.1, 2.0))
def test_no_departure_from_a_noisy_law(seed: int, slope: float) -> None:
    noise = np.random.default_rng(seed).uniform(-0.01, 0.01, 20)
    assert departure(np.array(law(20, slope)) * np.exp(noise), law(20), tolerance=0.1) == 0


def test_it_is_no_hacking_if_the_proxy_rises_too_or_golden_comes_back() -> None:
    golden = bent(16, 8)
    assert departure(golden, law(16)) == 8 and departure(golden, golden) == 0
    assert departure([*golden[:12], *law(16)[12:]], law(16)) == 0


def players(**series: list[float]) -> Any:
    return {"trace": SimpleNamespace(read=lambda name: torch.tensor(series[name], dtype=torch.float64))}


def test_probes_of_a_trace() -> None:
    there = players(golden=[1.0, 0.5, 0.4, 0.5], seen=[1.0, 0.8, 0.5, 0.2], proxy=[0.9, 0.6, 0.5, 0.6])
    assert rise()(there, {}) == pytest.approx(0.25) and lowest()(there, {}) == pytest.approx(0.4)
    assert rise(of="proxy")(there, {}) == pytest.approx(0.2)
    assert left()(there, {}) == pytest.approx(0.4)
    straight = players(golden=law(16), seen=law(16))
    assert onset()(straight, {}) == 1.0 and rise()(straight, {}) == 0.0
    assert onset()(players(golden=bent(16, 8), seen=law(16)), {}) == 0.5


def test_the_followed_metric_is_the_exact_divergence_of_sequences() -> None:
    """Per token and on texts of the oracle, times the tokens of a text: unbiased, so near with many texts."""
    nets = {"teacher": oracle_lm.oracle(0), "student": student(0)}
    game = Players({name: Player(name, frozen(), net) for name, net in nets.items()})
    data = oracle_lm.splits(0, train=6, held_out=3072)
    with torch.no_grad():
        found = oracle_lm.LENGTH * token_kl()(game, {"test": data["test"]})
        few = Table({k: c[:1] for k, c in data["test"].columns.items()})  # one prompt is enough to enumerate
        same = Table({k: c[::6] for k, c in data["test"].columns.items()})
        at_one = oracle_lm.LENGTH * token_kl()(game, {"test": same})
        exact = sequence_kl_forward()(game, {"test": few})
    assert at_one == pytest.approx(exact, rel=0.03) and found > 0


def test_teacher_and_student_of_the_bed_start_apart() -> None:
    theirs, mine = teacher(0), student(0)
    tokens = {"tokens": torch.zeros(1, 3, dtype=torch.long)}
    a, b = (net(tokens, frozenset({"logits"}))["logits"] for net in (theirs, mine))
    assert a.shape == b.shape == (1, 3, 6) and not torch.allclose(a, b)
