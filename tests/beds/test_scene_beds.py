"""Beds of scenes: what they say is known, by a second way."""

from __future__ import annotations

import torch

from limbeck.beds import load_bed
from limbeck.beds._mixture import Mixture
from limbeck.beds._scenes import Round
from limbeck.beds.splat import objects
from limbeck.claim import arm_loop
from limbeck.index import load
from limbeck.override import override
from limbeck.parts.optimizer import adam
from limbeck.players import Player, Players
from limbeck.probes.scenes import psnr, reference_gap, references_reached
from limbeck.roles import frozen, learning


def test_a_round_mixture_is_the_mixture_of_round_gaussians() -> None:
    rng = torch.Generator().manual_seed(0)
    weights, means, x = (torch.rand(4, generator=rng), *torch.randn(2, 4, 5, generator=rng).double())
    ours, theirs = Round(weights, means, 0.3), Mixture(weights, means, 0.3)
    for a, s in ((1.0, 0.1), (0.4, 0.6), (0.0, 1.0)):
        for mine, wanted in zip(ours.posterior(x, a, s), theirs.posterior(x, a, s), strict=True):
            torch.testing.assert_close(mine, wanted)
    some = torch.tensor([[True, False, True, False]]).expand(4, 4)
    torch.testing.assert_close(ours.among(some).posterior(x, 0.5, 0.5), theirs.among(some).posterior(x, 0.5, 0.5))


def test_the_closed_form_teacher_shows_what_is_there_and_a_student_does_not() -> None:
    bed = load_bed("vox")
    players = Players({n: Player(n, frozen(), bed.players[n](0)) for n in ("teacher", "student")})
    data = bed.data(0)
    assert psnr(player="teacher")(players, data) > 50
    assert psnr()(players, data) < 20
    rays = [data[split].columns["ray"] for split in ("train", "valid", "test")]
    assert all(torch.cdist(a, b).min() > 0.1 for a, b in ((rays[0], rays[2]), (rays[1], rays[2])))


def test_objects_are_reached_by_themselves_and_the_teacher_knows_them() -> None:
    bed = load_bed("splat")
    own = Players({"scene": Player("scene", frozen(), objects())})
    assert reference_gap()(own, bed.data(0)) < 1e-6 and references_reached()(own, bed.data(0)) == 4
    fresh = Players({"scene": Player("scene", frozen(), bed.players["scene"](0))})
    assert reference_gap()(fresh, bed.data(0)) > 0.05
    # of a noised picture, from the right camera, the teacher makes the picture
    rows = bed.data(0)["test"].columns
    noise = torch.randn(rows["x"].shape, generator=torch.Generator().manual_seed(0))
    seen = {"x": 0.7 * rows["x"] + 0.3 * noise, "t": torch.full((16,), 0.3), "y": rows["y"]}
    back = bed.players["teacher"](0)(seen, frozenset({"x0"}))["x0"]
    assert (back - rows["x"]).square().mean().sqrt() < 0.5 * 0.3 / 0.7


def test_one_object_under_four_particles_is_one() -> None:
    bed, scene = load_bed("splat"), objects()
    for value in scene.parameters():
        value.data[:] = value.data[:1].clone()
    assert references_reached()(Players({"scene": Player("scene", frozen(), scene)}), bed.data(0)) == 1


def test_variational_scores_move_splats_towards_objects() -> None:
    bed, recipe = load_bed("splat"), load("prolificdreamer")
    quick = {"scene.optimizer.lr": 3e-2, "critic": learning(adam(lr=2e-3)), "distill.batch_size": 8}
    loop = arm_loop(override(recipe, quick | {"distill.steps": 30, "distill.scene.loss.scale": 1.0}), bed, 0)
    before = reference_gap()(loop.players, loop.data)
    loop.execute()
    loop.players.turn("probe")
    assert reference_gap()(loop.players, loop.data) < 0.85 * before
