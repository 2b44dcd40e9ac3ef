"""Edits: orders of inversion, features that are kept, edits that must do nothing, and guidance."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.data import Table
from limbeck.errors import BadValue, UnknownName
from limbeck.parts.editing import flow_edit, noise_edit, retargeted
from limbeck.parts.guidance import Guided, guided
from limbeck.parts.injection import feature_edit
from limbeck.parts.reuse import reused_midpoint
from limbeck.parts.solver import euler, even, midpoint
from limbeck.players import Players, build
from limbeck.probes.editing import class_distance, displacement, inversion_error, target_accuracy
from limbeck.roles import frozen


def cast(bed: str = "mog5", rows: int = 64, net: nn.Module | None = None) -> tuple[Players, Batch]:
    world = load_bed(bed)
    columns = {k: c for k, c in world.data(0)["train"].take(torch.arange(rows)).items() if k in ("x", "y")}
    batch = Batch(columns | {"x": columns["x"].double()})
    nets = {"student": (net or world.players["oracle"](0)).double(), "oracle": world.players["oracle"](0)}
    return build({"student": frozen(), "oracle": frozen()}, nets, batch), batch


def table(batch: Batch) -> dict[str, Table]:
    return {"edited": Table(dict(batch.columns))}


@pytest.mark.parametrize(("solver", "order"), [(midpoint(), 2), (reused_midpoint(), 2), (euler(), 1)])
def test_inversion_has_the_order_of_its_solver(solver, order) -> None:
    players, batch = cast("mog8", rows=24)
    errors = []
    for n in (30, 60, 120):
        made = feature_edit(solver=solver, times=even(n), kept=0, target=1.0)(players, batch)
        errors.append(inversion_error()(players, table(made)))
    assert (torch.tensor(errors).log2().diff().neg() - order).abs().max() < 0.2


def test_reuse_asks_once_a_step_and_is_exact_along_straight_lines() -> None:
    asked = []

    class Line(nn.Module):
        def forward(self, batch, want):
            asked.append(float(batch["t"][0]))
            return {"velocity": torch.full_like(batch["x"], 3.0)}

    players, batch = cast(net=Line())
    grid = torch.tensor(even(4)).double().expand(64, -1)
    states = reused_midpoint()(players, batch.with_(grid=grid))
    assert torch.allclose(states[-1], batch.x - 3.0) and len(asked) == 5


class Attending(nn.Module):
    """A net whose velocity is what one module makes of the class, so that what was kept shows."""

    classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Embedding(4, 2)

    def forward(self, batch, want):
        return {"velocity": self.value(batch["y"]) * batch["t"][:, None].to(batch["x"].dtype)}


def test_features_of_the_way_there_undo_an_edit_while_they_are_kept() -> None:
    players, batch = cast("mog8c", net=Attending())
    batch = retargeted()(players, batch).with_(y=batch.y % 3)
    batch = batch.with_(target=(batch.y + 1) % 3)
    moved = []
    for kept in (0, 5, 10):
        edit = feature_edit(solver=midpoint(), times=even(10), modules=("value",), kept=kept, target=1.0)
        moved.append(displacement()(players, table(edit(players, batch))))
    assert moved[0] > moved[1] > moved[2] and moved[2] == pytest.approx(0, abs=1e-12)
    assert not players.student.module.value._forward_hooks  # nothing is left behind


def test_a_module_that_is_not_there_is_named() -> None:
    players, batch = cast("mog8c", net=Attending())
    with pytest.raises(UnknownName, match="value"):
        feature_edit(modules=("valve",), target=1.0)(players, batch)
    with pytest.raises(BadValue, match="kept"):
        feature_edit(kept=26)(players, batch)


def test_guidance_is_that_of_a_guided_net_and_needs_classes() -> None:
    players, batch = cast("mog8c")
    seen = batch.with_(t=torch.full((64,), 0.4, dtype=torch.float64))
    expected = Guided(players.student.module, 3.0)(seen, frozenset({"velocity"}))["velocity"]
    assert torch.allclose(guided(players.student, seen, "velocity", 3.0), expected)
    plain, rows = cast("mog5")
    with pytest.raises(BadValue, match="classes"):
        guided(plain.student, rows.with_(t=seen.t), "velocity", 3.0)
    with pytest.raises(BadValue, match="unconditional"):
        retargeted()(plain, rows.with_(y=torch.zeros(64, dtype=torch.long)))


def test_an_edit_to_the_same_class_changes_nothing() -> None:
    players, batch = cast("mog8c")
    same = flow_edit(times=even(10), skip=2, source=1.5, target=1.5)(players, batch.with_(target=batch.y))
    assert torch.equal(same.x, batch.x)


def test_edits_come_to_the_class_wanted_and_flow_edit_moves_least() -> None:
    players, batch = cast("mog8c", rows=400)
    batch = retargeted(shift=1)(players, batch)
    flow = flow_edit(times=even(25), skip=0, source=1.0, target=1.0)(players, batch)
    there = feature_edit(times=even(12), kept=0, target=1.0)(players, batch)
    noised = noise_edit(times=even(25, 0.9))(players, batch)
    for made in (flow, there, noised):
        assert target_accuracy()(players, table(made)) > 0.95
    assert displacement()(players, table(flow)) < displacement()(players, table(noised))
    data = table(flow) | {"test": load_bed("mog8c").data(0)["test"]}
    assert class_distance(rows=400)(players, data) < 0.35 < class_distance(rows=400)(players, data | table(batch))


def test_more_copies_of_the_noise_leave_less_to_chance() -> None:
    players, batch = cast("mog8c")
    batch = retargeted(shift=1)(players, batch)
    spread = []
    for copies in (1, 16):
        edit = flow_edit(times=even(8), skip=0, copies=copies, source=1.0, target=1.0)
        ends = [edit(players, Batch(batch.columns, batch.rng.fold(k))).x for k in range(4)]
        spread.append(float(torch.stack(ends).var(0).mean()))
    assert spread[1] < 0.6 * spread[0]


def test_steps_left_out_and_plain_steps() -> None:
    players, batch = cast("mog8c")
    batch = retargeted(shift=1)(players, batch)
    assert torch.equal(flow_edit(times=even(8), skip=8)(players, batch).x, batch.x)
    made = flow_edit(times=even(20), skip=2, plain=6, source=1.0, target=1.0)(players, batch)
    assert target_accuracy()(players, table(made)) > 0.9
    with pytest.raises(BadValue, match="skip"):
        flow_edit(times=even(8), skip=5, plain=4)(players, batch)
