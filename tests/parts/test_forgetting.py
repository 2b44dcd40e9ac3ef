"""Forgetting classes: exact fields of each class tell what the field without one must be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue
from limbeck.parts.fisher import score_identity
from limbeck.parts.forgetting import Overridden, asked_classes, class_weight, overridden
from limbeck.parts.states import noise_states, uniform_levels
from limbeck.players import Player, Players
from limbeck.probes.forgetting import override_distance, still_drawn
from limbeck.rng import Rng
from limbeck.roles import frozen

BED = load_bed("mog8c")
FIELD = BED.players["oracle"](0)
ANSWERS = frozenset({"x0", "score", "velocity"})


def given(**nets: nn.Module) -> Players:
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


class Painter(nn.Module):
    """Draws the mean of each datum's mode; what is asked for 3 is drawn as `instead`."""

    classes = 4

    def __init__(self, instead: int) -> None:
        super().__init__()
        self.instead = instead

    def forward(self, batch, want):
        mode = batch["mode"] + (batch["y"] == 3) * (self.instead - 3)  # modes k and k + 4 are of class k
        return {"x0": FIELD.mixture.means[mode].to(batch["x"])}


def test_the_class_to_forget_has_the_field_of_the_safe_one() -> None:
    x, t = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 0.9, 40)
    y = torch.arange(40) % 5  # with rows of no class, which keep the field of the whole
    safe = overridden(forget=(2, 3), override=1)(given(teacher=FIELD), Batch({"x": x}))
    found = safe({"x": x, "t": t, "y": y}, ANSWERS)
    for want in ANSWERS:
        truth = FIELD({"x": x, "t": t, "y": torch.tensor([0, 1, 1, 1, 4])[y]}, ANSWERS)[want]
        assert torch.equal(found[want], truth)
    assert not torch.equal(found["x0"], FIELD({"x": x, "t": t, "y": y}, ANSWERS)["x0"])


def test_rows_are_asked_for_at_the_stated_shares() -> None:
    batch = Batch({"x": torch.zeros(8_000, 2)}, rng=Rng(("seed",), torch.arange(8_000)))
    y = asked_classes(forget=(1,), share=0.25)(given(student=fresh(0, 2, 8, 1, classes=4)), batch).y
    shares = torch.bincount(y, minlength=4) / 8_000
    assert torch.allclose(shares, torch.tensor([0.25, 0.25, 0.25, 0.25]), atol=0.02)
    y = asked_classes(forget=(1, 2), share=0.5)(given(student=fresh(0, 2, 8, 1, classes=3)), batch).y
    assert torch.allclose(torch.bincount(y, minlength=3) / 8_000, torch.tensor([0.5, 0.25, 0.25]), atol=0.02)
    assert class_weight(classes=(1, 2), inside=0.5)(None, Batch({"y": torch.arange(4)})).tolist() == [1, 0.5, 0.5, 1]


class Drawn(nn.Module):
    """A generator that draws from the safe class, exactly: data that a gradient can reach."""

    classes = 4

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self, batch, want):
        return {"x0": self.x + 0 * batch["x"]}


def test_a_generator_that_draws_the_safe_class_is_at_rest_and_another_is_not() -> None:
    data = BED.data(0)["test"].take(torch.arange(2_000))
    for shown, at_rest in ((1, True), (3, False)):
        net = Drawn(data["x"][data["y"] == shown])
        n = len(net.x)
        batch = Batch({"x": net.x.detach(), "y": torch.full((n,), 3)})
        critic = Overridden(FIELD, (3,), shown)  # the exact field of what is drawn
        players = given(student=net, teacher=FIELD, critic=critic, safe=Overridden(FIELD, (3,), 1))
        batch = replace(noise_states()(players, batch), memo={})
        players.turn("student", "student")
        loss = score_identity(levels=uniform_levels(), alpha=0.5).on(teacher="safe")(players, batch)
        loss.sum().backward()
        assert (float(net.x.grad.abs().max()) == 0) is at_rest


def test_probes_tell_what_was_forgotten_and_replaced() -> None:
    data = BED.data(0)
    for instead, drawn in ((3, 1.0), (0, 0.0)):
        assert still_drawn(classes=(3,), rows=2_000)(given(student=Painter(instead)), data) == drawn
    far, near = (override_distance(forget=(3,), override=0)(given(student=Painter(k)), data) for k in (3, 0))
    assert near < 0.2 and far > 0.3
    with pytest.raises(BadValue, match="no row"):
        still_drawn(classes=(9,), rows=50)(given(student=Painter(0)), data)


def test_what_cannot_be_forgotten_is_refused() -> None:
    with pytest.raises(BadValue, match="unconditional"):
        Overridden(nn.Identity(), (0,), 1)
    with pytest.raises(BadValue, match="from 0 to 3"):
        Overridden(FIELD, (0,), 7)
    batch = Batch({"x": torch.zeros(1, 2)})
    with pytest.raises(BadValue, match="leave one"):
        asked_classes(forget=(0, 1))(given(student=fresh(0, 2, 8, 1, classes=2)), batch)
