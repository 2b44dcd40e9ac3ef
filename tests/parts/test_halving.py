"""Halving: targets that land where the teacher lands, the grid of the cosine path, weights, rounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.errors import BadValue
from limbeck.parts.halving import (
    Ladder,
    cosine_times,
    halve,
    ladder,
    landing,
    landing_states,
    landing_target,
    snr_weight,
    truncated_weight,
)
from limbeck.parts.path import VP_COSINE
from limbeck.parts.solver import ddim
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen


def cast(steps: int) -> Players:
    nets = {"teacher": load_bed("mog8").players["oracle"](0), "ladder": Ladder(steps)}
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def data(n: int = 200) -> Batch:
    x = 2 * torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Batch({"x": x}, rng=Rng(("halving", 0), torch.arange(n)))


def vp_step(x, x0, u: float, w: float):
    """DDIM as the paper writes it, on x_u = cos(pi u / 2) x0 + sin(pi u / 2) e."""
    (a, s), (b, r) = ((math.cos(math.pi / 2 * v), math.sin(math.pi / 2 * v)) for v in (u, w))
    return b * x0 + r * (x - a * x0) / s


@pytest.mark.parametrize("n", [1, 4])
def test_the_target_is_that_of_the_paper_on_its_own_path(n: int) -> None:
    players = cast(n)
    seen = landing_states()(players, data())
    u_of = {round(t, 9): 1 - i / n for i, t in enumerate(cosine_times(n))}
    assert {round(t, 9) for t in seen.t.tolist()} == {t for t in u_of if t > 0}
    target = landing_target(seen.x, seen.landed, seen.t, seen.level)
    for i in range(0, 200, 20):
        u = u_of[round(float(seen.t[i]), 9)]
        x = seen.x[i : i + 1] * (math.cos(math.pi / 2 * u) + math.sin(math.pi / 2 * u))
        start = x
        for here, there in ((u, u - 0.5 / n), (u - 0.5 / n, u - 1 / n)):
            a, s = math.cos(math.pi / 2 * here), math.sin(math.pi / 2 * here)
            level = torch.tensor([s / (a + s)], dtype=torch.float64)
            x0 = players.teacher(Batch({"x": x / (a + s), "t": level}), "x0")
            x = vp_step(x, x0, here, there)
        torch.testing.assert_close(vp_step(start, target[i : i + 1], u, u - 1 / n), x)


def test_a_student_that_answers_the_target_has_no_loss_and_lands() -> None:
    seen = landing_states()(cast(8), data())
    target = landing_target(seen.x, seen.landed, seen.t, seen.level)
    torch.testing.assert_close(ddim(seen.x, target, seen.t, seen.level), seen.landed)
    players = Players({"student": Player("student", frozen(), answer=lambda b, w: {"x0": target + 0.5})})
    torch.testing.assert_close(landing()(players, seen), torch.full((200,), 0.5, dtype=torch.float64))


def test_with_one_step_the_target_is_what_the_teacher_says() -> None:
    players = cast(8)
    seen = landing_states(steps=1)(players, data())
    target = landing_target(seen.x, seen.landed, seen.t, seen.level)
    torch.testing.assert_close(target, players.teacher(seen.with_(x=seen.x), "x0"))
    two = landing_states()(players, data())
    assert torch.equal(two.x, seen.x) and float((two.landed - seen.landed).abs().max()) > 0.05


@given(n=st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_times_are_even_on_the_cosine_path(n: int) -> None:
    t = torch.tensor(cosine_times(n), dtype=torch.float64)[1:-1]
    u = VP_COSINE.time(t / (1 - t))
    torch.testing.assert_close(u, 1 - torch.arange(1, n, dtype=torch.float64) / n)
    assert cosine_times(n)[0] == 1 and cosine_times(n)[-1] == 0


def test_weights_are_those_of_the_errors_they_name() -> None:
    # on the cosine path an error d of x0 is one of -(a / s) d of e, and of -(a^2 / s + s) d = -d / s of v = a e - s x0
    u = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    a, s = VP_COSINE.alpha(u), VP_COSINE.sigma(u)
    batch = Batch({"t": s / (a + s)})
    torch.testing.assert_close(snr_weight()(None, batch), s**-2)
    torch.testing.assert_close(snr_weight(plus=0.0)(None, batch), (a / s) ** 2)
    torch.testing.assert_close(truncated_weight()(None, batch), torch.maximum((a / s) ** 2, torch.ones(20).double()))


def test_rounds_halve_and_end() -> None:
    players = Players({"ladder": Player("ladder", frozen(), ladder(start=12)(Players({}), data(2)))})
    assert [halve()(players, data(2), {})[1]["steps"] for _ in range(2)] == [6.0, 3.0]
    with pytest.raises(BadValue, match="3 steps cannot be halved"):
        halve()(players, data(2), {})
    with pytest.raises(BadValue, match="start = 1"):
        ladder(start=1)(Players({}), data(2))
