"""Adapters: off and at first they change nothing, the base never moves, and the lessons are those of guidance."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._mixture import ExactField
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue, UnknownName
from limbeck.parts.adapters import adapted, guided_matching, guided_noised, guided_sample, guided_states
from limbeck.parts.guidance import guidance_scales
from limbeck.parts.optimizer import adam
from limbeck.parts.solver import euler, even
from limbeck.players import Players, build
from limbeck.roles import built, frozen


def rows(n: int = 16) -> Batch:
    taken = load_bed("mog8c").data(0)["train"].take(torch.arange(n))
    return guidance_scales(low=1.0, high=6.0)(None, Batch({"x": taken["x"], "y": taken["y"]}))


def cast(**more) -> Players:
    roles = {"teacher": frozen(), "student": built(adapted(**more), adam(lr=1e-2))}
    return build(roles, {"teacher": fresh(3, 2, 32, classes=4)}, rows(2))


def test_at_first_and_without_a_scale_the_student_is_its_base() -> None:
    players, batch = cast(), rows().with_(t=torch.linspace(0.1, 0.9, 16))
    base = players.teacher(batch.with_(), "velocity")
    assert torch.equal(players.student(batch.with_(), "velocity"), base)
    players.turn("test", ("student",))
    optimizer = adam(lr=1e-1)([p for p in players.student.params if p.requires_grad])
    before = {k: v.clone() for k, v in players.student.module.net.state_dict().items()}
    players.student(batch.with_(), "velocity").square().sum().backward()
    optimizer.step()
    assert not torch.allclose(players.student(batch.with_(), "velocity"), base)
    plain = Batch({k: c for k, c in batch.columns.items() if k != "w"})
    assert torch.equal(players.student(plain, "velocity"), base)  # adapters off
    assert all(torch.equal(v, before[k]) for k, v in players.student.module.net.state_dict().items())
    assert not players.student.module.net.trunk[1]._forward_hooks


def test_an_adapter_reads_scale_class_and_level() -> None:
    players, batch = cast(width=8), rows().with_(t=torch.full((16,), 0.5))
    with torch.no_grad():
        for last in players.student.module.outside:
            last.weight.normal_(generator=torch.Generator().manual_seed(0))
    one = batch.with_(x=batch.x[:1].expand(16, -1), y=batch.y[:1].expand(16), w=torch.full((16,), 2.0))
    base = players.student(one, "velocity")
    for other in (one.with_(w=one.w + 1), one.with_(y=(one.y + 1) % 4), one.with_(t=one.t + 0.1)):
        moved = players.student(other, "velocity") - players.teacher(other.with_(), "velocity")
        assert not torch.allclose(moved, base - players.teacher(one.with_(), "velocity"))


def test_guided_states_are_those_of_guided_sampling_by_hand() -> None:
    bed = load_bed("mog8c")
    exact = bed.players["oracle"](0)
    assert isinstance(exact, ExactField)
    batch = rows()
    players = build({"teacher": frozen()}, {"teacher": exact}, batch)
    made = guided_states(solver=euler(), times=even(4))(players, batch)
    assert made.size == 64 and len({tuple(u) for u in made.rng.uniform("u", 2).tolist()}) == 64
    x = batch.rng.normal("z", 2)
    for i, t in enumerate(even(4)[:-1]):
        assert torch.allclose(made.x.view(16, 4, 2)[:, i], x, atol=1e-6)
        level = torch.full((16,), t)
        with_class, without = (
            exact({"x": x, "t": level, "y": y}, frozenset({"velocity"}))["velocity"]
            for y in (batch.y, torch.full_like(batch.y, 4))
        )
        v = without + batch.w[:, None] * (with_class - without)
        assert torch.allclose(made.velocity.view(16, 4, 2)[:, i], v, atol=1e-4)
        x = x - 0.25 * v
    assert torch.allclose(guided_sample(times=even(4))(players, batch), x, atol=1e-4)


def test_lessons_on_noised_data_have_the_same_targets() -> None:
    players, batch = cast(), rows()
    seen = guided_noised()(players, batch)
    assert seen.x.shape == batch.x.shape and not torch.equal(seen.x, batch.x)
    one = seen.with_(w=torch.ones(16))
    told = guided_noised()(players, batch.with_(w=torch.ones(16)))
    assert torch.allclose(guided_matching()(players, told), torch.zeros(16), atol=1e-10)  # w = 1 is the net itself
    assert (guided_matching()(players, one.with_(velocity=seen.velocity + 1.0)) > 0).all()


def test_what_cannot_be_adapted_is_named() -> None:
    with pytest.raises(UnknownName, match=r"trunk\.1"):
        cast(modules=("trunk.11",))
    with pytest.raises(BadValue, match="unconditional"):
        build({"teacher": frozen(), "student": built(adapted())}, {"teacher": fresh(0, 2)}, rows(2))
