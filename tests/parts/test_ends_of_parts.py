"""Parts at the ends of their numbers: closed forms in the limits, and what is promised to be refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.batch import Batch, Moment
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue, UnknownName
from limbeck.part import Expr, part
from limbeck.parts import dirichlet, editing, forgetting, pairs
from limbeck.parts.adapters import guided_noised, guided_sample
from limbeck.parts.bootstrap import noise_and_levels, signal_step
from limbeck.parts.clips import chunkwise, clip_trajectories, regression, seen_chunks
from limbeck.parts.consistency import consistency, gap_weight
from limbeck.parts.continuous import continuous_consistency, inverse_noise, level_weighed, risen, trig
from limbeck.parts.curvature import reverse_kl
from limbeck.parts.distance import huber_each, pseudo_huber, squared
from limbeck.parts.expanded import expanded_gap
from limbeck.parts.flow_matching import huber_matching, path_sample, path_states, straight_path, vp_linear
from limbeck.parts.general_multistep import general, generalised
from limbeck.parts.guided import guided_student, guided_teacher
from limbeck.parts.halving import Ladder, cosine_times, landing_states, landing_target, snr_weight, truncated_weight
from limbeck.parts.hinge import level_heads
from limbeck.parts.injection import feature_edit, hooked
from limbeck.parts.lean import Lean, fit_lean, lean
from limbeck.parts.mean_velocity import mean_velocity
from limbeck.parts.own_states import analytic_euler, one_step, teacher_path
from limbeck.parts.plan import planned_start, refined, solved_ends
from limbeck.parts.ratio import Staircase, ratio_of
from limbeck.parts.sample_preference import chain_preference, step_log_density
from limbeck.parts.scale_time import exact_path, scale_time
from limbeck.parts.solver import even, heun
from limbeck.parts.steered import steered
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

SHAPE = (2, 3, 2)
unit = st.floats(0.01, 0.99)
few = settings(max_examples=8, deadline=None, database=None)


def said(**answers: Callable[[Batch], Tensor] | float) -> Players:
    """Players that answer any wish by a function of the batch, or by one number everywhere."""

    def answering(value: Callable[[Batch], Tensor] | float):
        return lambda b, want: {w: value(b) if callable(value) else torch.full_like(b["x"], value) for w in want}

    return Players({name: Player(name, frozen(), answer=answering(value)) for name, value in answers.items()})


def pictures(n: int = 4, **more: Tensor) -> Batch:
    x = torch.randn(n, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Batch({"x": x, **more}, rng=Rng(("ends",), torch.arange(n)))


def at(t: float, n: int = 4) -> Tensor:
    return torch.full((n,), t, dtype=torch.float64)


# -- limits -----------------------------------------------------------------------------------------------------------


@given(sigma_min=st.floats(0, 0.9), u=unit)
@few
def test_the_straight_path_keeps_its_pace_and_its_way_back(sigma_min: float, u: float) -> None:
    # a s' - a' s = 1 and a + s = 1 + sigma_min (1 - u)
    own, time = straight_path(sigma_min=sigma_min)(None, None), at(u, 1)
    torch.testing.assert_close(own.pace(time), at(1 / (1 + sigma_min * (1 - u)), 1))
    torch.testing.assert_close(own.path.time(own.path.sigma(time) / own.path.alpha(time)), time)
    torch.testing.assert_close(vp_linear(0.1, 9.0).time(((0.1 * time + 4.45 * time**2).exp() - 1).sqrt()), time)


def test_a_path_from_its_last_time_is_pure_noise_and_one_constant_field_is_solved_in_a_step() -> None:
    own, batch = straight_path(sigma_min=0.0)(None, None), pictures()
    players = Players({**said(student=2.0), "path": Player("path", frozen(), own)})
    seen = path_states(least=1.0)(players, batch)
    torch.testing.assert_close(seen.x, seen.velocity + batch.x)
    z = batch.rng.normal("z", *SHAPE).double()
    torch.testing.assert_close(path_sample(steps=1)(players, batch), z - 2)


@given(r=st.floats(-50, 50), c=st.floats(1e-3, 10))
@few
def test_huber_lies_below_its_line_and_below_its_square(r: float, c: float) -> None:
    players, batch = said(student=r), pictures(1)
    size, k = abs(r) * 12**0.5, 12 * c
    loss = float(huber_matching(c=c)(players, batch.with_(velocity=torch.zeros_like(batch.x))))
    assert -1e-12 <= loss <= min(size / 12, size**2 / (24 * k)) + 1e-12 and loss >= (size - k) / 12 - 1e-12
    miss = torch.full((1, *SHAPE), r, dtype=torch.float64)
    d = float(pseudo_huber(c=c)(miss))
    assert max(size - c * 12**0.5, 0) - 1e-9 <= d <= min(size, size**2 / (2 * c * 12**0.5)) + 1e-9
    assert d == pytest.approx(12**0.5 * float(huber_each(c=c)(miss)), abs=1e-9)  # where all coordinates are alike
    assert squared()(miss).item() == pytest.approx(size**2)


@given(value=st.floats(-3, 3), n=st.integers(1, 9), steps=st.integers(1, 4))
@few
def test_a_teacher_of_one_belief_is_landed_on_whatever_the_steps(value: float, n: int, steps: int) -> None:
    field = said(teacher=lambda b: (b.x - value) / b.t.view(-1, 1, 1, 1))
    players = Players({**field, "ladder": Player("ladder", frozen(), Ladder(n))})
    seen = landing_states(steps=steps)(players, pictures())
    target = landing_target(seen.x, seen.landed, seen.t, seen.level)
    torch.testing.assert_close(target, torch.full_like(target, value), rtol=1e-6, atol=1e-6)
    assert torch.equal(landing_target(seen.x, seen.landed, seen.t, at(0.0)), seen.landed)


@given(t=unit)
@few
def test_weights_of_levels_at_their_ends(t: float) -> None:
    batch = pictures(1, t=at(t, 1), r=at(0.0, 1))
    torch.testing.assert_close(truncated_weight()(None, batch), snr_weight(plus=0.0)(None, batch).clamp(min=1))
    torch.testing.assert_close(inverse_noise()(None, batch), gap_weight()(None, batch) / 12)  # sigma_r = 0
    assert (
        inverse_noise()(None, batch.with_(t=at(1.0, 1))) == 0 == snr_weight(plus=0.0)(None, batch.with_(t=at(1.0, 1)))
    )


@given(t=unit, r=unit, s=unit)
@few
def test_steps_of_the_signal_add_up(t: float, r: float, s: float) -> None:
    t, r, s = (at(v) for v in sorted((t, r, s), reverse=True))
    y, x0 = pictures().x, pictures().x.flip(0)
    torch.testing.assert_close(signal_step(signal_step(y, x0, t, r), x0, r, s), signal_step(y, x0, t, s))
    torch.testing.assert_close(signal_step(y, x0, t, t), y)
    assert torch.equal(signal_step(y, x0, t, at(0.0)), x0) and torch.equal(signal_step(y, x0, at(1.0), s), x0)


def test_a_way_of_no_length_leaves_flow_matching_and_a_neighbour_that_is_the_state_nothing() -> None:
    net = fresh(0, 2, width=8, depth=1).double()
    players = Players({n: Player(n, frozen(), net) for n in ("student", "target")})
    x = pictures().x.flatten(1)[:, :2]
    batch = Batch({"x": x, "t": at(0.4), "s": at(0.4), "velocity": x.flip(1), "near": x, "r": at(0.4), "real": x.exp()})
    u = players.student(batch, "velocity")
    torch.testing.assert_close(mean_velocity()(players, batch), (u - x.flip(1)).square().sum(1))
    assert not consistency(distance=squared())(players, batch).any()
    # a truncation above all levels never asks where the target leads
    far = consistency(distance=squared(), truncation=2.0)(players, batch.with_(near=9 * x))
    assert torch.equal(far, (x - batch.real).square().sum(1))


@given(soft=st.floats(0.01, 100))
@few
def test_the_pushed_loss_stays_below_one_and_falls_with_softness(soft: float) -> None:
    players = said(student=lambda b: b.x.sin(), teacher=0.0)
    one, more = (continuous_consistency(soft=c)(players, pictures(t=at(0.5))) for c in (soft, 2 * soft))
    assert ((one > more) & (one < 1) & (more > 0)).all()
    assert not continuous_consistency(soft=math.inf)(players, pictures(t=at(0.5))).any()


@given(share=st.floats(0.01, 1), step=st.integers(0, 50), size=st.floats(0.1, 10), off=st.floats(-2, 2))
@few
def test_rises_and_learned_weights(share: float, step: int, size: float, off: float) -> None:
    assert risen(share=share)(Moment(step, 51)) == pytest.approx(min(1, step / 50 / share))
    torch.testing.assert_close(trig(size).time(trig(size).sigma(at(1.0)) / trig(size).alpha(at(1.0))), at(1.0))
    loss = level_weighed(loss=part(lambda players, batch: size + 0 * batch.t)())
    found, best = (loss(said(weights=lambda b, w=w: w + 0 * b.t), pictures(t=at(0.5))) for w in (off, math.log(size)))
    torch.testing.assert_close(best, at(1 + math.log(size)))
    assert (found >= best - 1e-9).all()


@given(t0=st.floats(0.01, 0.3), v=st.floats(-2, 2), copies=st.integers(1, 3))
@few
def test_pairs_along_a_constant_field_are_shifts(t0: float, v: float, copies: int) -> None:
    players, batch = said(teacher=v), pictures()
    batch = batch.with_(name=list("abcd"))
    made = pairs.sampled_pairs(times=even(3, 1.0, t0), copies=copies)(players, batch)
    torch.testing.assert_close(made.x, made.e + (t0 - 1) * v)
    assert made.name == list("abcd") * copies and made.x.shape == (4 * copies, *SHAPE)
    back = pairs.inverted_pairs(solver=heun(), times=even(2, t0, 1.0))(players, batch)
    torch.testing.assert_close(back.e, (1 - t0) * (batch.x + v))


@given(low=st.floats(1e-3, 0.9), high=st.floats(1.1, 1e3), logit=st.floats(-50, 50))
@few
def test_ratios_stay_in_bounds_and_stairs_hold_every_level(low: float, high: float, logit: float) -> None:
    r = ratio_of(at(logit), low, high)
    assert (r >= low * (1 - 1e-12)).all() and (r <= high * (1 + 1e-12)).all()
    assert float(ratio_of(at(0.0), low, high)[0]) == 1
    stairs = Staircase(3)
    stairs.height.data = torch.arange(3.0)
    assert stairs({"t": torch.tensor([0.0, 0.33, 0.34, 0.99, 1.0])}, frozenset())["mean"].tolist() == [0, 0, 1, 2, 2]
    x, real = pictures().x, pictures().x.flip(0)
    assert not expanded_gap(x, real, real, at(0.5), reverse_kl()).any()  # equal fields are no distance apart


def test_steering_wholly_and_the_most_likely_step() -> None:
    batch = pictures()
    assert steered(times=(1.0,), share=1.0)(said(student=2.0, teacher=5.0), batch).eq(5).all()
    own = said(student=0.5).student
    best = step_log_density(own, batch, batch.x, at(0.8), torch.full_like(batch.x, 0.3), at(0.4))
    assert best.abs().max() < 1e-20  # at its mean, (1 - s) x0
    assert (step_log_density(own, batch, batch.x, at(0.8), batch.x, at(0.4)) < 0).all()


@given(n=st.integers(1, 6), merge=st.integers(1, 5))
@few
def test_refined_times_keep_the_given_ones_at_equal_distances(n: int, merge: int) -> None:
    grid = torch.rand(2, n + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(n)).sort(1, True)[0]
    fine = refined(grid, merge)
    assert torch.equal(fine[:, ::merge], grid)
    torch.testing.assert_close(fine.diff(), (grid.diff() / merge).repeat_interleave(merge, 1))


def test_levels_of_clips_and_weights_of_classes() -> None:
    clip = Batch({"x": pictures().x.flatten(2)})  # two frames of six numbers
    seen = seen_chunks(times=(0.0,), chunk=1)(None, clip)
    assert torch.equal(seen.x, clip.x) and seen.t.shape == (4, 2)
    off = regression()(said(student=1.0), seen.with_(real=torch.zeros_like(clip.x)))
    assert torch.equal(off, at(1.0))
    batch = Batch({"x": clip.x, "y": torch.arange(4)})
    for share, kinds in ((0.0, {0, 2}), (1.0, {1})):
        student = Players({"student": Player("student", frozen(), fresh(0, 2, width=4, depth=1, classes=3))})
        assert set(forgetting.asked_classes(forget=(1,), share=share)(student, batch).y.tolist()) <= kinds
    x = torch.rand(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    torch.testing.assert_close(dirichlet.on_simplex(x), x)  # what is on it stays
    torch.testing.assert_close(dirichlet.on_simplex(x + 7), x)  # and is found again along the diagonal


# -- what is refused --------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A field without classes."""

    def forward(self, batch, want):
        return {w: batch["x"] for w in want}


def plain() -> Players:
    nets = {"student": Plain(), "teacher": Plain(), "solver": Lean((1.0, 0.5, 0.0))}
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


LABELLED = {"y": torch.zeros(4, dtype=torch.long), "target": torch.ones(4, dtype=torch.long), "w": 2 * torch.ones(4)}
REFUSED: dict[str, tuple[Expr, str]] = {
    "no noise left": (straight_path(sigma_min=-0.1), r"sigma_min must lie in \[0, 1\), got -0.1"),
    "no gap": (noise_and_levels(gap=0.0), r"gap must lie between 0 and 1, got 0\.0"),
    "gap of nan": (noise_and_levels(gap=math.nan), "gap must lie between 0 and 1, got nan"),
    "level times": (pairs.inverted_pairs(times=(0.5, 0.5)), r"up to the noise, got times from 0\.5 to 0\.5"),
    "one time": (teacher_path(times=(1.0,)), r"two times or more, got \(1\.0,\)"),
    "step -1": (one_step(step=-1), "the path has steps 0 to 1, got step = -1"),
    "from noise": (analytic_euler(), "starts below t = 1"),
    "no fine step": (exact_path(merge=0), "one step is refined into one or more, got 0"),
    "one knot": (scale_time(times=(0.0,)), "falls from 1 to 0"),
    "order 0": (generalised(order=0), "order 1, 2 or 3, got 0"),
    "equal times": (general(times=(1.0, 0.5, 0.5)), r"needs falling times .* got \(1\.0, 0\.5, 0\.5\), 5"),
    "lean once": (lean(times=(1.0,)), r"over falling times, two or more, got \(1\.0,\)"),
    "equal ends": (solved_ends(times=(1.0, 1.0)), "falling times, two or more"),
    "share below": (steered(share=-0.1), r"steered\.share must lie in \[0, 1\], got -0\.1"),
    "kept -1": (feature_edit(kept=-1), "kept in 0 to 25 steps, got kept = -1"),
    "guided edit": (feature_edit(times=even(2), kept=0), "guidance by 2 needs a class of every row"),
    "no copy": (editing.flow_edit(copies=0), r"skip \+ plain <= 50 steps, got 0, 17, 0"),
    "guided flow": (editing.flow_edit(times=even(2), skip=0), "guidance by 13.5 needs a class of every row"),
    "guided teacher": (guided_teacher(scale=0.0), "guidance needs a net with classes; Plain is unconditional"),
    "guided student": (guided_student(), "guidance needs a net with classes; Plain is unconditional"),
    "guided lessons": (guided_noised(), "guidance needs a net with classes"),
    "guided samples": (guided_sample(), "guidance needs a net with classes"),
    "forgetting": (forgetting.overridden(), "only nets with classes can forget one; Plain is unconditional"),
    "none to forget": (forgetting.asked_classes(forget=()), "at least one"),
    "chunks of none": (seen_chunks(chunk=0), "2 frames do not make whole chunks of 0"),
    "chunks of -1": (chunkwise(chunk=-1), "2 frames do not make whole chunks of -1"),
    "open ends": (clip_trajectories(times=(1.0, 0.5)), "end at level 0, these at 0.5"),
    "short chains": (chain_preference(), "chains of 2 levels or more, 4 and 1 more states; got 4 levels"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_words(name: str) -> None:
    refused, message = REFUSED[name]
    grid, path = torch.tensor([[1.0, 0.5, 0.0]]).expand(4, -1), torch.zeros(4, 3, *SHAPE)
    with pytest.raises(BadValue, match=message):
        refused(plain(), pictures(grid=grid, path=path, chain=path, rival=path, **LABELLED))


def test_other_promises_of_refusal() -> None:
    with pytest.raises(BadValue, match="steps = 0"):
        cosine_times(0)
    with pytest.raises(BadValue, match="refined into one or more"):
        fit_lean(merge=0)(plain(), pictures(), {})
    with pytest.raises(UnknownName, match=r"unknown answer 'tap:trunk\.9' in player teacher"):
        teacher = Player("teacher", frozen(), fresh(0, 2, width=4, depth=1))
        level_heads(taps=("tap:trunk.9",))(Players({"teacher": teacher}), Batch({"x": torch.zeros(2, 2)}))
    with (
        pytest.raises(UnknownName, match="unknown module '1' in Sequential"),
        hooked(nn.Sequential(Plain()), ("1",), id),
    ):
        pass
    with pytest.raises(UnknownName, match="unknown player 'solver'"):
        planned_start(said(student=0.0), pictures())
    for edit, column in (
        (editing.noise_edit(), "target"),
        (editing.flow_edit(), "target"),
        (dirichlet.one_pass(), "tokens"),
    ):
        player = Player("student", frozen(), Plain())
        player.module.kinds = 4
        with pytest.raises(UnknownName, match=f"unknown column '{column}'"):
            edit(Players({"student": player}), pictures())
