"""Samplers written out as numbers give what the samplers give; what is no fixed grid is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from limbeck.adapters.convention import Convention, flow, read_scheduler
from limbeck.adapters.unrolled import unrolled
from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.parts.flowmap import any_step
from limbeck.parts.solver import ancestral, dpm_multistep, euler, heun, ode_sample, third
from limbeck.parts.states import few_step, like
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

GRID = (1.0, 0.8, 0.45, 0.2, 0.0)
CONVENTIONS = {
    "flow": flow(1000),
    "v": read_scheduler(diffusers.DDIMScheduler(prediction_type="v_prediction")),
    "edm": read_scheduler(diffusers.EDMEulerScheduler()),
}
SAMPLERS = {
    "few": few_step(times=(1.0, 0.6, 0.3)), "map": any_step(times=GRID),
    **{s.spec.name: ode_sample(solver=s, times=GRID) for s in (euler(), heun(), third(), dpm_multistep(order=3))},
    "again": ode_sample(solver=ancestral(), times=GRID),
}  # fmt: skip


def model(x: Tensor, told: Tensor, ahead: Tensor) -> Tensor:
    """Some net that is not linear."""
    return torch.sin(2 * x) * like(torch.cos(told / 300), x) + like(ahead, x)


class Net(nn.Module):
    def __init__(self, convention: Convention) -> None:
        super().__init__()
        self.convention = convention

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        x, t = batch["x"], batch["t"]
        h = model(self.convention.seen(x, t), self.convention.told(t), t - batch["s"] if "s" in batch else t)
        x0, eps = self.convention.read(h, x, t)
        return {"x0": x0, "eps": eps, "velocity": eps - x0}


class Told(Rng):
    """Streams that write down what they drew."""

    def normal(self, name: str, *shape: int) -> Tensor:
        found = super().normal(name, *shape).double()
        self.drawn.append(found)  # type: ignore[attr-defined]
        return found

    def fold(self, *key: object) -> Told:
        again = Told((*self.key, *key), self.rows)
        object.__setattr__(again, "drawn", self.drawn)  # type: ignore[attr-defined]
        return again


@pytest.mark.parametrize("kind", CONVENTIONS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_numbers_give_what_the_sampler_gives(name: str, kind: str) -> None:
    convention, rows = CONVENTIONS[kind], torch.arange(5)
    rng = Told(("x",), rows)
    object.__setattr__(rng, "drawn", [])
    seats = Players({"student": Player("student", frozen(), Net(convention))})
    want = SAMPLERS[name](seats, Batch({"x": torch.zeros(5, 3).double()}, rng=rng))
    noises, answers = rng.drawn, []  # type: ignore[attr-defined]
    for step in unrolled(convention, SAMPLERS[name]):
        x = sum(a * z for a, z in zip(step["noises"], noises, strict=False))
        x = x + sum(b * h for b, h in zip(step["answers"], answers, strict=False))
        if "told" in step:
            told, ahead = (torch.full((5,), step[k], dtype=torch.float64) for k in ("told", "ahead"))
            answers.append(model(step["scale"] * x, told, ahead))
    torch.testing.assert_close(x, want, atol=1e-9, rtol=1e-9)


@part
def bent(players: Players, batch: Batch, *, steps: int = 1) -> Tensor:
    """A sampler whose step depends on the state."""
    x = batch.rng.normal("z", *batch.x.shape[1:])
    t = torch.ones(batch.size, dtype=x.dtype)
    return x - x.abs() * players.student(batch.with_(x=x, t=t), "velocity")


def test_what_is_no_fixed_grid_is_refused() -> None:
    with pytest.raises(BadValue, match="no fixed grid"):
        unrolled(flow(1000), bent())
    with pytest.raises(BadValue, match="at most"):
        unrolled(flow(1000), few_step(times=tuple(1 - i / 600 for i in range(600))))
