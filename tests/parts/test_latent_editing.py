"""Editing of latent scenes: what passes the refinement, and what stays outside the region."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds.edit import encode
from limbeck.errors import UnknownName
from limbeck.parts.latent_editing import (
    Refiner,
    latent_fitting,
    outside_matching,
    refined,
    refinement,
    reprompted,
    whole_region,
)
from limbeck.parts.score_direction import delta_denoising, score_distillation
from limbeck.parts.states import uniform_levels
from limbeck.players import Player, Players
from limbeck.probes.scenes import edit_error
from limbeck.rng import Rng
from limbeck.roles import frozen

BED = load_bed("edit")


class Shown(nn.Module):
    """A scene that is a picture a camera."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x.clone())

    def forward(self, batch, want):
        return {"x0": self.x}


class Twice(nn.Module):
    def forward(self, batch, want):
        return {"x0": 2 * batch["x"]}


def rows(split: str = "train") -> Batch:
    source = BED.data(0)[split]
    n = torch.arange(len(source))
    return Batch(source.take(n), rng=Rng(("seed",), n))


def world(scene: nn.Module, refiner: nn.Module | None = None) -> Players:
    nets = {"scene": scene, "teacher": BED.players["teacher"](0)} | ({"refiner": refiner} if refiner else {})
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def test_a_loss_on_the_refined_view_is_the_loss_on_what_the_refiner_makes() -> None:
    # twice a scene at half the brightness is the scene, and the gradient comes back doubled
    half, whole = Shown(rows().edited / 2), Shown(rows().edited)
    for loss in (score_distillation(scale=1.0), delta_denoising(scale=1.0)):
        one = refined(loss=loss)(world(half, Twice()), rows()).sum()
        other = loss(world(whole), rows()).sum()
        torch.testing.assert_close(one, other)
        (a,), (b,) = torch.autograd.grad(one, half.x), torch.autograd.grad(other, whole.x)
        torch.testing.assert_close(a, 2 * b)


def test_the_bare_view_and_the_refined_one_are_kept_apart_on_a_batch() -> None:
    players, batch = world(Shown(rows().x / 2), Twice()), rows()
    refined(loss=outside_matching())(players, batch)
    assert torch.equal(players.scene(batch, "x0"), rows().x / 2)
    bare = (rows().x / 2).square().flatten(1).mean(1)
    torch.testing.assert_close(latent_fitting()(players, batch), bare)


def test_the_refiner_begins_as_the_identity_and_learns() -> None:
    net = refinement(width=8)(None, rows())
    assert isinstance(net, Refiner)
    out = net({"x": rows().x}, frozenset({"x0"}))["x0"]
    assert torch.equal(out, rows().x)
    out.square().sum().backward()
    assert all(block[2].weight.grad.abs().max() > 0 for block in net.blocks)


def test_without_a_refiner_there_is_no_refined_view() -> None:
    with pytest.raises(UnknownName, match="refiner"):
        refined()(world(Shown(rows().x)), rows())


def test_only_what_lies_outside_the_region_is_kept() -> None:
    batch = rows()
    moved = Shown(batch.x + batch.region)
    assert outside_matching()(world(moved), batch).abs().max() == 0
    torch.testing.assert_close(
        outside_matching()(world(Shown(batch.x + 1)), rows()), (1 - batch.region).flatten(1).sum(1)
    )
    assert whole_region()(None, batch).region.min() == 1
    assert torch.equal(reprompted()(None, batch).y, batch.target)


def test_delta_denoising_descends_towards_the_right_edit_from_every_view() -> None:
    batch, scene = rows(), Shown(rows().x)
    loss = delta_denoising(levels=uniform_levels(low=0.5, high=0.5), scale=1.0)(world(scene), batch)
    (gradient,) = torch.autograd.grad(loss.sum(), scene.x)
    aligned = nn.functional.cosine_similarity(-gradient.flatten(1), (batch.edited - batch.x).flatten(1))
    assert aligned.min() > 0.1 and aligned.mean() > 0.5  # of a direction at random, 0 with deviation 1 / 16


def test_the_bed_knows_the_right_edit() -> None:
    batch, teacher = rows("test"), BED.players["teacher"](0)
    # nothing but the object changes, up to the threshold of its region
    assert ((batch.x - batch.edited).abs() * (1 - batch.region)).max() < 0.15
    assert ((batch.x - batch.edited).abs() * batch.region).max() > 0.5
    assert edit_error()(world(Shown(batch.edited)), BED.data(0)) == 0
    off = world(Shown(batch.edited + 0.3 * batch.region))
    assert abs(edit_error(outside=False)(off, BED.data(0)) - 0.3) < 1e-6
    assert edit_error(inside=False)(off, BED.data(0)) == 0
    # the teacher tells ball from block: it makes of a noised mode what it was
    mode = teacher.field.mixture.means[0].float().view(1, 4, 8, 8)
    seen = {"x": 0.6 * mode, "t": torch.tensor([0.4]), "y": torch.tensor([0])}
    torch.testing.assert_close(teacher(seen, frozenset({"x0"}))["x0"], mode, atol=0.05, rtol=0)


def test_the_code_of_pictures_keeps_lengths_at_most() -> None:
    # filters are orthonormal, so that a picture in their span keeps its length and no other grows
    picture = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    code = encode(picture).square().sum((1, 2, 3))
    assert bool((code < picture.square().sum((1, 2, 3))).all()) and abs(float(code.mean()) / 256 - 1) < 0.2
