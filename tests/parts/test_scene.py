"""Scenes: renderers against integrals, finite differences and the conservation of light."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.errors import BadValue
from limbeck.parts.scene import (
    Particles,
    Splats,
    composite,
    particle_views,
    particles,
    pixel_grid,
    rendered,
    ring_cameras,
)
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

SEEN = frozenset({"x0"})


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def cloud(n: int = 3, side: int = 6) -> Splats:
    made = Splats(ring_cameras(3), 0.5 * torch.randn(2, n, 3, generator=seed()), 0.4, side).double()
    with torch.no_grad():
        made.colour += torch.randn(2, n, 3, generator=seed())
        made.opacity += torch.linspace(-1, 1, n)
    return made


def views(*pairs: tuple[int, int]) -> dict[str, Tensor]:
    camera, particle = torch.tensor(pairs).T
    return {"camera": camera, "particle": particle}


def test_light_is_conserved() -> None:
    alpha = torch.rand(5, 7, generator=seed())
    everything, left = composite(alpha, torch.ones(5, 7, 1))
    torch.testing.assert_close(everything[:, 0] + left, torch.ones(5))


def test_what_lies_behind_an_opaque_thing_is_not_seen() -> None:
    colour, left = composite(torch.tensor([0.25, 1.0, 0.5]), torch.tensor([[1.0], [2.0], [99.0]]))
    assert colour.tolist() == [0.25 + 0.75 * 2] and left == 0


def test_cameras_are_rotations_that_look_at_the_origin_from_a_ring() -> None:
    cameras = ring_cameras(6, 0.5).double()
    torch.testing.assert_close(cameras @ cameras.mT, torch.eye(3).double().expand(6, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(cameras), torch.ones(6).double())
    torch.testing.assert_close(-cameras[:, 2, 1].asin(), torch.full((6,), 0.5).double(), atol=1e-6, rtol=0)


def test_a_splat_has_the_integral_of_its_gaussian() -> None:
    # white, so its light over the plane is o 2 pi s^2, from every side
    one = Splats(ring_cameras(4), torch.tensor([[[0.2, -0.1, 0.3]]]), 0.15, 64)
    with torch.no_grad():
        one.colour += 50.0
        one.opacity += 0.7
    shown = one({"camera": torch.arange(4)}, SEEN)["x0"]
    light = shown.mean((2, 3)) * 4
    wanted = torch.sigmoid(torch.tensor(0.7)) * 2 * math.pi * 0.15**2
    torch.testing.assert_close(light, wanted.expand(4, 3), rtol=1e-4, atol=0)


def test_a_splat_is_seen_where_the_camera_puts_it() -> None:
    place = torch.tensor([0.3, 0.5, -0.2])
    one = Splats(ring_cameras(5), place.view(1, 1, 3), 0.1, 64)
    shown = one({"camera": torch.arange(5)}, SEEN)["x0"][:, 0].flatten(1)
    centre = shown @ pixel_grid(64) / shown.sum(1, keepdim=True)
    torch.testing.assert_close(centre, (ring_cameras(5) @ place)[:, :2], atol=2e-3, rtol=0)


def test_the_nearer_of_two_opaque_splats_hides_the_other() -> None:
    two = Splats(ring_cameras(2, 0.0), torch.tensor([[[0.0, 0.0, -0.5], [0.0, 0.0, 0.5]]]), 5.0, 2)
    with torch.no_grad():
        two.opacity += 50.0
        two.colour += torch.tensor([[50.0, -50.0, -50.0], [-50.0, 50.0, -50.0]])
    front, back = two({"camera": torch.tensor([0, 1])}, SEEN)["x0"].mean((2, 3))
    assert front.round().tolist() == [1, 0, 0] and back.round().tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["place", "log_size", "colour", "opacity"])
def test_gradients_of_splats_are_those_of_finite_differences(name: str) -> None:
    scene, rows = cloud(), views((0, 1), (2, 0))
    weight = torch.randn(2, 3, 6, 6, generator=seed(), dtype=torch.float64)
    value, h = getattr(scene, name), 1e-5
    (grad,) = torch.autograd.grad((scene(rows, SEEN)["x0"] * weight).sum(), value)
    flat = value.data.view(-1)
    for i in range(0, len(flat), max(1, len(flat) // 4)):
        ends = []
        for step in (h, -h):
            flat[i] += step
            ends.append(float((scene(rows, SEEN)["x0"].detach() * weight).sum()))
            flat[i] -= step
        assert abs((ends[0] - ends[1]) / (2 * h) - float(grad.view(-1)[i])) < 1e-6


def test_views_of_a_batch_are_those_of_its_rows() -> None:
    scene = cloud()
    both = scene(views((0, 1), (2, 0)), SEEN)["x0"]
    single = [scene(views(v), SEEN)["x0"][0] for v in ((0, 1), (2, 0))]
    torch.testing.assert_close(both, torch.stack(single))


def test_particles_are_looked_at_equally_often_under_their_own_prompt() -> None:
    teacher = Player("teacher", frozen(), load_bed("mog8c").players["oracle"](0))
    batch = Batch({"x": torch.zeros(3000, 2), "y": torch.arange(3000) % 4}, rng=Rng(("s",), torch.arange(3000)))
    scene = particles(count=3)(Players({"teacher": teacher}), batch)
    assert scene.value.shape == (4, 3, 2)
    players = Players({"scene": Player("scene", frozen(), scene)})
    share = particle_views()(players, batch).particle.bincount() / 3000
    assert (share - 1 / 3).abs().max() < 0.05
    shown = rendered()(players, batch)
    assert all((scene.value[y] == x).all(1).any() for x, y in zip(shown[:50], batch.y[:50], strict=True))


def test_particles_keep_to_their_bounds() -> None:
    value = torch.tensor([[[0.1], [99.0], [-99.0]]])
    rows = {"particle": torch.arange(3)}
    assert Particles(value, limit=2.0)(rows, SEEN)["x0"].flatten().tolist() == pytest.approx([0.1, 2, -2], abs=1e-3)
    assert torch.equal(Particles(value)(rows, SEEN)["x0"], value[0])


def test_no_particles_are_refused() -> None:
    teacher = Player("teacher", frozen(), load_bed("mog8").players["oracle"](0))
    with pytest.raises(BadValue, match="at least 1, got 0"):
        particles(count=0)(Players({"teacher": teacher}), Batch({"x": torch.zeros(1, 2)}))
