"""Hinge heads on frozen features: margins, who gets gradients, penalties against closed forms, levels with chances."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue
from limbeck.parts.biased_levels import chosen_levels, often_noise
from limbeck.parts.continuous import level_states
from limbeck.parts.hinge import (
    FrozenHeads,
    difference_penalty,
    gradient_penalty,
    hinge_discriminator,
    hinge_generator,
    level_heads,
    pixel_head,
)
from limbeck.parts.optimizer import sgd
from limbeck.parts.states import uniform_levels
from limbeck.players import Player, Players, build
from limbeck.rng import Rng
from limbeck.roles import built, frozen, learning

CLEAN = uniform_levels(low=0.0, high=0.0)
TAPS = ("tap:trunk.1", "tap:trunk.3")


def game(heads=level_heads(taps=TAPS)) -> tuple[Players, Batch]:
    batch = level_states(levels=uniform_levels())(None, Batch({"x": torch.randn(16, 2)}))
    roles = {"student": learning(sgd()), "teacher": frozen(), "heads": built(heads, sgd())}
    return build(roles, {"student": fresh(0, 2), "teacher": fresh(1, 2)}, batch), batch


class Slope(nn.Module):
    """A head with D(x) = a |x|^2 / 2 whose gradient is a x."""

    taps = ()

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def forward(self, batch, want):
        return {"logits": self.a / 2 * batch["x"].square().flatten(1).sum(1, keepdim=True).expand(-1, 3)}


def alone(net: nn.Module) -> Players:
    return Players({"heads": Player("heads", frozen(), net), "teacher": Player("teacher", frozen(), nn.Identity())})


def test_heads_learn_and_the_teacher_stands():
    players, batch = game()
    players.turn("heads", ("heads",))
    hinge_discriminator()(players, batch).mean().backward()
    grads = {n: [p.grad for p in players[n].params] for n in players}
    assert all(g is not None for g in grads["heads"]) and not any(g is not None for g in grads["teacher"])
    assert not any(g is not None for g in grads["student"])


def test_the_student_learns_through_the_teacher():
    players, batch = game()
    players.turn("student", ("student",))
    hinge_generator()(players, batch).mean().backward()
    assert sum(float(p.grad.norm()) for p in players["student"].params) > 0
    assert not any(p.grad is not None for n in ("heads", "teacher") for p in players[n].params)


def test_a_few_steps_tell_two_gaussians_apart():
    players, batch = game(pixel_head(width=32, depth=2))
    players.turn("heads", ("heads",))
    student = Player("student", frozen(), answer=lambda b, want: {"x0": b.rng.normal("fake", 2) + 4})
    players = Players({**players, "student": student})
    optimizer = torch.optim.Adam(players["heads"].params, lr=1e-2)
    losses: list[float] = []
    for step in range(40):
        there = batch.with_(real=batch.rng.fold(step).normal("real", 2))
        loss = hinge_discriminator(levels=CLEAN)(players, there).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(2.0, abs=0.5) and losses[-1] < 0.3
    assert hinge_generator(levels=CLEAN)(players, there).mean().item() > 0.5


def test_features_of_any_layout_and_a_level_that_is_heard():
    heads = FrozenHeads((4, 6, 5), ("a", "b", "c"), width=8, classes=3)
    seen = {"a": torch.randn(7, 4), "b": torch.randn(7, 6, 3, 3), "c": torch.randn(7, 9, 5), "y": torch.arange(7) % 4}
    ask = frozenset({"logits"})
    low, high = (heads({**seen, "t": torch.full((7,), t)}, ask)["logits"] for t in (0.1, 0.9))
    moved = {"b": seen["b"].flip(2, 3), "c": seen["c"].flip(1), "t": torch.full((7,), 0.1)}
    turned = heads({**seen, **moved}, ask)["logits"]
    other = heads({**seen, "y": (seen["y"] + 1) % 4, "t": torch.full((7,), 0.1)}, ask)["logits"]
    assert low.shape == (7, 3) and not torch.allclose(low, high) and not torch.allclose(low, other)
    assert torch.allclose(low, turned, atol=1e-6)  # positions are alike


def test_penalties_of_a_known_slope():
    """|a x|^2 exactly, and in the mean over noises for the difference."""
    real = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    batch = Batch({"real": real, "x": real})
    exact = gradient_penalty(levels=CLEAN)(alone(Slope(0.5)), batch)
    assert torch.allclose(exact, 0.25 * real.square().sum(1))
    many = Batch({"real": real[:1].expand(20_000, -1), "x": real[:1].expand(20_000, -1)})
    near = difference_penalty(levels=CLEAN, step=1e-3)(alone(Slope(0.5)), many)
    assert near.mean().item() == pytest.approx(exact[0].item(), rel=0.05)


def test_the_exact_penalty_can_be_learnt_from():
    players, batch = game()
    players.turn("heads", ("heads",))
    before = gradient_penalty(levels=CLEAN)(players, batch).mean()
    found = torch.autograd.grad(before, players["heads"].params, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(players["heads"].params, found, strict=True):
            p -= 0.1 * (g if g is not None else 0)
    assert gradient_penalty(levels=CLEAN)(players, batch.with_()).mean() < before


def test_chances_of_levels():
    batch = Batch({"x": torch.zeros(20_000, 1)}, rng=Rng(("chances",), torch.arange(20_000)))
    t: Tensor = chosen_levels(times=(1.0, 0.5, 0.2), chances=(3.0, 0.0, 1.0))(None, batch)
    assert (t == 1).float().mean() == pytest.approx(0.75, abs=0.02) and not (t == 0.5).any()
    mixed = often_noise(levels=uniform_levels(low=0.1, high=0.2), share=0.3)(None, batch)
    assert (mixed == 1).float().mean() == pytest.approx(0.3, abs=0.02)
    for bad in ((1.0,), (0.0, 0.0, 0.0), (-1.0, 1.0, 1.0)):
        with pytest.raises(BadValue, match="a chance >= 0 for each of 3 levels"):
            chosen_levels(times=(1.0, 0.5, 0.2), chances=bad)(None, batch)
