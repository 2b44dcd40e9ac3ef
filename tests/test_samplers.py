"""Samplers of recipes: as many evaluations as their papers say, at the levels that settings name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.adapters.convention import read_scheduler
from limbeck.adapters.pipeline import Denoiser, Frame
from limbeck.batch import Batch
from limbeck.claim import tried_on
from limbeck.comparison import evaluations
from limbeck.data import Table
from limbeck.errors import BadValue, UnknownName
from limbeck.index import load
from limbeck.override import override
from limbeck.part import Expr, part
from limbeck.parts.flowmap import any_step
from limbeck.parts.guidance import Guided
from limbeck.parts.solver import dpm_multistep, euler, heun, in_steps, midpoint, ode_sample, third
from limbeck.parts.states import few_step
from limbeck.players import Player, Players
from limbeck.roles import frozen
from limbeck.samplers import ode_of, read_at, sampler_of, taught_everywhere
from tests.adapters import pipes
from tests.adapters.pipes import diffusers

ONE = ("dmd", "dmd2", "sid", "swiftbrush", "instaflow", "ict", "rfpp", "ladd", "boot", "hyper-sd", "sana-sprint")
PUBLISHED = {**dict.fromkeys(ONE, 1), "perflow": 4, "progressive-distillation": 4, "rcm": 4, "pso": 4}
DMD2, HALVED = load("dmd2"), load("progressive-distillation")
DATA = {"test": Table({"x": torch.zeros(3, 2), "y": torch.zeros(3, dtype=torch.int64)})}


class Still(nn.Module):
    """A field that stands still and remembers at which levels it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[float] = []

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        assert bool((batch["t"] == batch["t"][0]).all())
        self.levels.append(float(batch["t"][0]))
        return {w: torch.zeros_like(batch["x"]) for w in want}


def cast(**nets: nn.Module) -> Players:
    found = Players({name: Player(name, frozen(), net) for name, net in nets.items()})
    found.turn("probe")
    return found


def asked(draw: Expr | None) -> list[float]:
    """The levels at which a sampler asks the student."""
    assert draw is not None
    net = Still()
    draw(cast(student=net), Batch(DATA["test"].take(torch.arange(2))))  # type: ignore[operator]
    return net.levels


# -- of recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", PUBLISHED)
def test_a_student_is_sampled_in_as_many_evaluations_as_its_paper_says(key: str) -> None:
    draw = sampler_of(load(key))
    assert draw is not None and evaluations(cast(student=Still()), DATA, draw) == PUBLISHED[key]
    levels = asked(draw)
    assert levels[0] == 1 and levels == sorted(levels, reverse=True) and levels[-1] > 0


def test_a_field_for_any_solver_and_a_student_of_texts_have_no_sampler() -> None:
    assert [key for key in ("flow-matching", "agd", "kd", "gkd") if sampler_of(load(key)) is not None] == []


@given(st.lists(st.sampled_from([0.9, 0.7, 0.5, 0.3, 0.1]), unique=True, max_size=4))
@settings(max_examples=8, deadline=None)
def test_a_few_step_student_is_sampled_at_the_levels_of_its_states(below: list[float]) -> None:
    levels = (1.0, *sorted(below, reverse=True))
    recipe = override(DMD2, {"distill.student.batch.times": levels})
    assert asked(sampler_of(recipe)) == pytest.approx(levels)


def test_levels_that_the_user_gave_the_sampler_itself_are_kept() -> None:
    recipe = override(load("dmd2"), {"sampler.times": (1.0, 0.3)})
    assert asked(sampler_of(recipe)) == pytest.approx([1.0, 0.3])


def test_windows_are_crossed_at_their_borders() -> None:
    recipe = override(load("perflow"), {"distill.student.batch.borders": (1.0, 0.6, 0.25, 0.0)})
    assert asked(sampler_of(recipe)) == pytest.approx([1.0, 0.6, 0.25])


@given(st.integers(0, 5), st.integers(0, 4))
@settings(max_examples=8, deadline=None)
def test_a_ladder_ends_at_half_its_steps_a_round(log_steps: int, later: int) -> None:
    changes = {"ladder.builder.start": 2 ** (log_steps + 2), "later.times": later + 1}
    recipe = override(HALVED, changes)
    n = max(1, 2 ** (log_steps + 2) // 2 ** (1 + later + 1))  # one round at first
    # even in the angle of the cosine path, where noise to signal is a tangent
    truth = [1.0, *(math.tan(math.pi / 2 * i / n) for i in range(n - 1, 0, -1))]
    truth[1:] = [r / (1 + r) for r in truth[1:]]
    assert asked(sampler_of(recipe)) == pytest.approx(truth, abs=1e-6)


def test_levels_of_chains_and_of_chunks_are_followed() -> None:
    levels = (1.0, 0.8, 0.4)
    chains = override(load("pso"), {"tune.student.batch.times": levels})
    assert asked(sampler_of(chains)) == pytest.approx(levels)
    chunks = override(load("causvid"), {"distill.student.batch.times": (*levels, 0.0)})
    draw = sampler_of(chunks)
    assert draw is not None and draw.children()["times"] == levels


def test_jumps_are_sampled_as_the_paper_has_it_and_told_what_the_student_was_told() -> None:
    jumps = sampler_of(load("tcd"))
    assert jumps is not None and jumps.children()["gamma"] == 0.3 and jumps.children()["told"] is True
    untold = sampler_of(override(load("tcd"), {"variant": "untold"}))
    assert untold is not None and untold.children()["told"] is False


def test_a_student_of_few_times_is_no_field_for_any_solver() -> None:
    first = sampler_of(load("sfd"))
    assert first is not None and evaluations(cast(student=Still()), DATA, first) == 3
    plain = sampler_of(tried_on(load("sfd"), "mog5")[1])  # its claim leaves the analytic step out
    assert plain is not None and asked(plain) == pytest.approx([1, 2 / 3, 1 / 3])


@pytest.mark.parametrize(
    "scheduler",
    [diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), diffusers.DDIMScheduler(prediction_type="v_prediction")],
    ids=["flow", "table"],
)
def test_a_teacher_is_asked_at_the_levels_of_its_scheduler(scheduler: Any, tmp_path: Any) -> None:
    frame = Frame(tmp_path, "DDPMPipeline", "unet", scheduler)
    net = Denoiser(pipes.unet(), read_scheduler(scheduler), frame)
    net.classes = 1
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(6)
    if hasattr(scheduler, "alphas_cumprod"):
        kept = scheduler.alphas_cumprod[scheduler.timesteps]
        truth = (1 - kept).sqrt() / (kept.sqrt() + (1 - kept).sqrt())
    else:
        truth = scheduler.sigmas[:-1]
    for player in (net, Guided(net, 2.0)):
        assert asked(ode_of(player, steps=6)) == pytest.approx(truth.tolist(), abs=1e-5)
    assert len(asked(ode_of(net))) == 50


# -- what a student was made for ------------------------------------------------------------------------------------


FEW = ("dmd2", "sid", "ladd", "instaflow", "perflow", "progressive-distillation", "pso", "causvid", "sfd", "d-ode")
ANY = ("rcm", "sana-sprint", "tcd", "hyper-sd", "ict", "boot", "scflow", "rfpp", "flow-matching")


@pytest.mark.parametrize("key", (*FEW, *ANY))
def test_who_has_learnt_at_all_levels_is_made_for_any_number_of_steps(key: str) -> None:
    assert taught_everywhere(load(key)) is (key in ANY)


@given(st.sampled_from(FEW[:8] + ANY[:7]))
@settings(max_examples=8, deadline=None)
def test_a_curve_begins_with_what_the_student_was_made_for(key: str) -> None:
    draw = sampler_of(load(key))
    assert draw is not None
    reads = read_at(draw, (1, 2, 4, 8), key in ANY)
    assert reads[0] == (draw, True) and all(made is (key in ANY) for _, made in reads[1:])
    steps = [len(d.children()["times"]) - (d.children()["times"][-1] == 0) for d, _ in reads]
    assert len(set(steps)) == len(steps) and {1, 2, 4, 8} <= {*steps}


def test_what_learnt_its_times_or_stops_above_the_data_is_read_at_its_own() -> None:
    for key in ("d-ode", "sfd"):
        draw = sampler_of(load(key))
        assert draw is not None and read_at(draw, (1, 2, 4), False) == [(draw, True)]


# -- steps and evaluations --------------------------------------------------------------------------------------------


@part
def unstepped(players: Players, batch: Batch, *, scale: float = 1.0) -> torch.Tensor:
    """A sampler without times that asks two players."""
    levels = [batch.with_(t=torch.full((batch.size,), t)) for t in (1.0, 0.7, 0.4)]
    x: torch.Tensor = players.student(batch.with_(t=torch.zeros(batch.size)), "x0")
    return x + scale * sum(players["judge"](there, "x0") for there in levels)


COSTS = {"euler": (euler(), 1, 0), "heun": (heun(), 2, -1), "midpoint": (midpoint(), 2, 0), "third": (third(), 3, 0),
         "memory": (dpm_multistep(order=3), 1, 0)}  # fmt: skip


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_evaluations_of_a_solver_are_stages_by_steps(name: str, steps: int) -> None:
    solver, stages, spared = COSTS[name]
    draw = in_steps(ode_sample(solver=solver), steps)
    assert evaluations(cast(student=Still()), DATA, draw) == stages * steps + spared


@given(st.integers(1, 20))
@settings(max_examples=8, deadline=None)
def test_steps_are_even_and_end_at_the_data_or_before_it(steps: int) -> None:
    levels = [1 - i / steps for i in range(steps)]
    for sampler in (few_step(), few_step(times=(1.0, 0.2)), any_step(), ode_sample(times=(1.0, 0.9, 0.0))):
        assert asked(in_steps(sampler, steps)) == pytest.approx(levels, abs=1e-6)
    assert in_steps(ode_sample(solver=heun()), steps).children()["solver"] == heun()


def test_no_steps_and_samplers_without_times_are_refused() -> None:
    for sampler in (few_step(), ode_sample()):
        with pytest.raises(BadValue, match="steps = 0"):
            in_steps(sampler, 0)
    with pytest.raises(UnknownName, match="times"):
        in_steps(unstepped(), 2)


def test_the_player_that_is_asked_most_is_counted() -> None:
    both = cast(student=Still(), judge=Still())
    assert evaluations(both, DATA, unstepped()) == 3
    one = Still()
    assert evaluations(cast(student=one, judge=one), DATA, unstepped()) == 4  # one net in two seats
    answers = Player("student", None, answer=lambda b, want: {"x0": torch.zeros_like(b.x)})
    assert evaluations(Players({"student": answers}), DATA, few_step()) == 0  # nobody who computes is asked


def test_nothing_is_left_hanging_on_a_net_that_was_counted() -> None:
    net = Still()
    assert evaluations(cast(student=net), DATA, few_step(times=(1.0, 0.5))) == 2
    with pytest.raises(UnknownName, match="judge"):
        evaluations(cast(student=net), DATA, unstepped())
    assert not net._forward_hooks
