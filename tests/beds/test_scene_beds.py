"""Beds of scenes: what they say is known, by a second way."""

from __future__ import annotations

import torch

from limbeck.beds import load_bed
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.beds._scenes import Round
from limbeck.beds.edit import LatentField
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
        torch.testing.assert_close(ours.log_density(x, a, s), theirs.log_density(x, a, s))
        torch.testing.assert_close(ours.score(x, a, s), theirs.score(x, a, s))
    some = torch.tensor([[True, False, True, False]]).expand(4, 4)
    for ask in ("posterior", "score", "log_density"):
        mine, wanted = (getattr(mixture.among(some), ask)(x, 0.5, 0.5) for mixture in (ours, theirs))
        torch.testing.assert_close(mine, wanted)


def test_the_score_of_pictures_is_the_slope_of_their_log_density() -> None:
    rng = torch.Generator().manual_seed(1)
    means, x = torch.randn(2, 4, 12, generator=rng).double()
    field = LatentField(ExactField(Round(torch.ones(4), means, 0.2), torch.tensor([0, 0, 1, 1])), (3, 2, 2))
    seen = {"t": torch.tensor([0.2, 0.5, 0.8, 1.0]).double(), "y": torch.tensor([0, 1, 2, 0])}
    score = field(seen | {"x": x.view(4, 3, 2, 2)}, frozenset({"score"}))["score"]

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return field.field(seen | {"x": x}, frozenset({"log_density"}))["log_density"].sum()

    for place in ((0, 3), (1, 7), (3, 11)):
        step = torch.zeros(4, 12, dtype=torch.float64)
        step[place] = 1e-5
        slope = (log_density(x + step) - log_density(x - step)) / 2e-5
        torch.testing.assert_close(score.flatten(1)[place], slope, rtol=1e-6, atol=1e-6)


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
    # of a noised picture, from a camera of its own, the teacher makes the picture
    rows = bed.data(0)["train"].columns
    noise = torch.randn(rows["x"].shape, generator=torch.Generator().manual_seed(0))
    seen = {"x": 0.7 * rows["x"] + 0.3 * noise, "t": torch.full((16,), 0.3), "y": rows["y"]}
    back = bed.players["teacher"](0)(seen, frozenset({"x0"}))["x0"]
    assert (back - rows["x"]).square().mean().sqrt() < 0.5 * 0.3 / 0.7


def test_the_views_of_the_splits_are_of_other_cameras_and_of_all_objects() -> None:
    data = load_bed("splat").data(0)
    views = {split: set(table.columns["camera"].tolist()) for split, table in data.items()}
    assert views == {"train": {0, 2, 4, 6}, "valid": {1, 5}, "test": {3, 7}}
    assert all(set(table.columns["mode"].tolist()) == {0, 1, 2, 3} for table in data.values())
    x, others = (data[split].columns["x"].flatten(1) for split in ("train", "test"))
    assert torch.cdist(x, others).min() > 0.5  # another camera, another picture
    # what only looks right from the teacher's cameras is no object: seen from its neighbour's place it is wrong
    scene = objects()
    scene.cameras[1::2] = scene.cameras[::2].clone()
    assert reference_gap()(Players({"scene": Player("scene", frozen(), scene)}), data) > 0.05


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
