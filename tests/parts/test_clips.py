"""Clips drawn chunk by chunk: what a net may see, what it keeps, and flights that are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds.bounces import ClipField, bouncing, filmed
from limbeck.errors import BadValue
from limbeck.parts.clips import (
    attended,
    chunkwise,
    clip_trajectories,
    regression,
    seen_chunks,
    trajectory_chunks,
)
from limbeck.parts.solver import heun
from limbeck.players import Player, Players
from limbeck.probes.motion import bounce_error
from limbeck.rng import Rng
from limbeck.roles import frozen

LEVELS, STEPS = (1.0, 0.757, 0.522, 0.0), (1.0, 0.757, 0.522)


def given(**nets: nn.Module) -> Players:
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def rows(n: int, frames: int = 8) -> Batch:
    return Batch({"x": bouncing(n, 0, frames)}, rng=Rng(("seed",), torch.arange(n)))


def answer(net: ClipField, x: torch.Tensor, t: torch.Tensor, want: str = "x0", **more: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net({"x": x, "t": t, **more}, frozenset({want}))[want]


def test_no_frame_sees_a_later_chunk_and_all_see_earlier_ones() -> None:
    net, x, t = filmed(0, chunk=2), bouncing(3, 0), torch.full((3, 8), 0.5)
    plain = answer(net, x, t)
    for frame in range(8):
        changed = x.clone()
        changed[:, frame] += 1
        moved = (answer(net, changed, t) - plain).abs().amax((0, 2)) > 0
        first = frame // 2 * 2
        assert not moved[:first].any() and moved[first:].all()
    assert ((answer(filmed(0), x + torch.eye(8)[7][:, None], t) - answer(filmed(0), x, t)).abs().amax((0, 2)) > 0).all()


def test_what_is_kept_is_what_would_be_computed() -> None:
    net, x, t = filmed(0, chunk=2), bouncing(4, 1), torch.rand(4, 4).repeat_interleave(2, 1)
    whole = answer(net, x, t)
    past = answer(net, x[:, :4], t[:, :4], "keys")
    torch.testing.assert_close(answer(net, x[:, 4:6], t[:, 4:6], past=past), whole[:, 4:6], rtol=1e-5, atol=1e-5)


def test_a_teacher_is_made_causal_with_its_own_weights() -> None:
    teacher = filmed(0)
    net = attended(chunk=4)(given(teacher=teacher), rows(2))
    assert net.chunk == 4 and teacher.chunk == 0
    assert all(torch.equal(a, b) and a is not b for a, b in zip(net.parameters(), teacher.parameters(), strict=True))
    with pytest.raises(BadValue, match="no attribute `chunk`"):
        attended()(given(teacher=nn.Linear(1, 1)), rows(2))


def test_every_chunk_is_noised_to_a_level_of_its_own() -> None:
    batch = rows(6_000)
    seen = seen_chunks(times=LEVELS, chunk=4)(given(), batch)
    t = seen.t.view(-1, 2, 4)
    assert torch.equal(t, t[..., :1].expand_as(t))
    for level in LEVELS:
        share = (t[:, :, 0] == level).float().mean(0)
        assert float((share - 0.25).abs().max()) < 0.03
        left = seen.x - (1 - level) * seen.real
        there = left[seen.t == level]
        assert abs(float(there.std()) - level) < 0.02
    assert abs(float(torch.corrcoef(t[:, :, 0].T)[0, 1])) < 0.05
    with pytest.raises(BadValue, match="whole chunks of 3"):
        seen_chunks(chunk=3)(given(), batch)


class Gaussian(nn.Module):
    """The exact field of frames that are independent N(0, 4)."""

    def forward(self, batch, want):
        x, t = batch["x"], batch["t"]
        level = (t[:, None] if t.ndim == 1 else t)[..., None]
        a, var = 1 - level, 4 * (1 - level) ** 2 + level**2
        x0, eps = 4 * a * x / var, level * x / var
        return {"velocity": eps - x0, "x0": x0, "keys": torch.zeros(len(x), 1, x.shape[1], 4)}


def test_trajectories_are_those_of_the_field_and_chunks_are_cut_from_them() -> None:
    # the flow of a Gaussian is a scaling: x(t) = sqrt(4 (1 - t)^2 + t^2) e
    batch = rows(200)
    made = clip_trajectories(times=LEVELS, between=10, solver=heun())(given(teacher=Gaussian()), batch)
    start = made.states[:, 0]
    for k, t in enumerate(LEVELS):
        torch.testing.assert_close(made.states[:, k], start * (4 * (1 - t) ** 2 + t**2) ** 0.5, rtol=0.01, atol=0.01)
    assert torch.equal(made.states[:, -1], made.x)
    cut = trajectory_chunks(times=LEVELS, chunk=2)(given(), made)
    scale = (4 * (1 - cut.t) ** 2 + cut.t**2).sqrt()[..., None]
    torch.testing.assert_close(cut.x, start * scale, rtol=0.01, atol=0.01)
    assert len(cut.t.unique()) == 4 and torch.equal(cut.real, made.x)

    class Ends(nn.Module):
        def forward(self, batch, want):
            t = batch["t"][..., None]
            return {"x0": 2 * batch["x"] / (4 * (1 - t) ** 2 + t**2).sqrt()}

    assert float(regression()(given(student=Ends()), cut).max()) < 1e-3
    with pytest.raises(BadValue, match="end at level 0"):
        clip_trajectories(times=STEPS)(given(teacher=Gaussian()), batch)
    with pytest.raises(BadValue, match="4 states, the student 3"):
        trajectory_chunks(times=STEPS)(given(), made)


class Recorder(nn.Module):
    """Draws what it is told, and remembers how much it saw of earlier frames."""

    def __init__(self) -> None:
        super().__init__()
        self.saw: list[tuple[int, float]] = []

    def forward(self, batch, want):
        past = batch.get("past")
        self.saw.append((0 if past is None else past.shape[2], round(float(batch["t"].flatten()[0]), 3)))
        return {"x0": torch.full_like(batch["x"], 0.5), "keys": batch["x"][:, None]}


def test_chunks_are_drawn_one_after_the_other_with_a_window_on_the_past() -> None:
    net = Recorder()
    drawn = chunkwise(times=STEPS, chunk=2, frames=12, kept=6)(given(student=net), rows(3))
    assert drawn.shape == (3, 12, 2) and bool((drawn == 0.5).all())
    # three steps and one look at what is clean
    assert net.saw == [(p, t) for p in (0, 2, 4, 6, 6, 6) for t in (1.0, 0.757, 0.522, 0.0)]
    with pytest.raises(BadValue, match="whole chunks"):
        chunkwise(frames=9)(given(student=net), rows(3))


def test_chunk_by_chunk_is_what_the_whole_clip_would_give() -> None:
    # with the exact field of independent frames one step from noise gives the mean, which is 0
    one = chunkwise(times=(1.0,))(given(student=Gaussian()), rows(5))
    assert float(one.abs().max()) == 0
    net, batch = filmed(0, chunk=2), rows(4)
    with torch.no_grad():
        drawn = chunkwise(times=(1.0,))(given(student=net), batch)
    for c in range(4):  # each chunk again, from the clean ones before it, without anything kept
        z = batch.rng.fold("chunk", c).normal("z", 2, 2)
        t = torch.cat((torch.zeros(4, 2 * c), torch.ones(4, 2)), 1)
        again = answer(net, torch.cat((drawn[:, : 2 * c], z), 1), t)[:, -2:]
        torch.testing.assert_close(again, drawn[:, 2 * c : 2 * c + 2], rtol=1e-4, atol=1e-4)


def test_true_flights_have_no_error_and_a_jolt_is_seen() -> None:
    clips = bouncing(500, 3, frames=24)
    assert float(clips.abs().max()) <= 1 and float(bounce_error(clips).max()) < 1e-5
    jolted = clips.clone()
    jolted[:, 10] += 0.01
    error = bounce_error(jolted).mean((0, 2))
    assert float(error[8]) == pytest.approx(0.01, rel=0.1) and float(error[:8].max()) < 1e-5 < float(error[9])
