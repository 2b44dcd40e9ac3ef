"""A critic by low-rank changes: at first the teacher, and nothing but the changes learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue
from limbeck.parts.guidance import Guided
from limbeck.parts.low_rank import low_rank_copy
from limbeck.parts.optimizer import adamw, sgd
from limbeck.players import Players, build
from limbeck.rng import Rng
from limbeck.roles import built, frozen


def cast(teacher: nn.Module, rank: int = 4) -> tuple[Players, Batch]:
    rows = {"x": torch.randn(8, 2), "t": torch.rand(8), "y": torch.arange(8) % 3}
    batch = Batch(rows, rng=Rng(("test",), torch.arange(8)))
    roles = {"teacher": frozen(), "critic": built(low_rank_copy(rank=rank, alpha=8.0), adamw())}
    return build(roles, {"teacher": teacher}, batch), batch


def test_it_starts_as_the_teacher_and_learns_changes_of_the_rank() -> None:
    players, batch = cast(fresh(0, 2, classes=3))
    assert torch.equal(players.teacher(batch, "x0"), players.critic(batch, "x0"))
    before = {name: p.clone() for name, p in players.critic.module.named_parameters()}
    players.turn("critic", ("critic",))
    optimiser = sgd(lr=0.1)([p for p in players.critic.params if p.requires_grad])
    for _ in range(2):
        optimiser.zero_grad()
        players.critic(batch.with_(), "x0").square().sum().backward()
        optimiser.step()
    changed = {name for name, p in players.critic.module.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(".lora_" in name for name in changed)
    assert torch.equal(players.teacher.module.out.weight, fresh(0, 2, classes=3).out.weight)
    layer = players.critic.module.trunk[2]
    assert torch.linalg.matrix_rank(layer.get_delta_weight("default")) == 4


def test_a_guided_teacher_is_copied_without_its_guidance() -> None:
    net = fresh(0, 2, classes=3)
    players, batch = cast(Guided(net, 4.5))
    plain = net(batch, frozenset({"x0"}))["x0"]
    torch.testing.assert_close(players.critic(batch, "x0"), plain)
    assert not torch.allclose(players.teacher(batch, "x0"), plain)


def test_what_has_no_layers_is_refused() -> None:
    with pytest.raises(BadValue, match="0 in ExactField"):
        cast(load_bed("mog8").players["teacher"](0))
    with pytest.raises(BadValue, match="rank 0"):
        cast(fresh(0, 2), rank=0)


def test_convolutions_take_part() -> None:
    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

        def forward(self, batch, want):
            return {"x0": self.out(self.inner(batch["x"]).tanh())}

    batch = Batch({"x": torch.randn(2, 2, 5, 5)}, rng=Rng(("test",), torch.arange(2)))
    roles = {"teacher": frozen(), "critic": built(low_rank_copy(rank=2), adamw())}
    players = build(roles, {"teacher": Conv()}, batch)
    assert torch.equal(players.teacher(batch, "x0"), players.critic(batch, "x0"))
    assert sum("lora_B" in name for name, _ in players.critic.module.named_parameters()) == 2
