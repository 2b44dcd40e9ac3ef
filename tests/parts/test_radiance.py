"""Radiance fields against integrals along rays, linear functions and finite differences; and their distillation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._scenes import Blobs
from limbeck.errors import Mismatch
from limbeck.parts.radiance import GridFeatures, Radiance, TensorFeatures, WaveFeatures, decoder
from limbeck.parts.scene import ring_cameras
from limbeck.parts.volume_distillation import (
    density_matching,
    picture_matching,
    random_rays,
    ray_matching,
    volume_matching,
)
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

SEEN = frozenset({"x0"})
AXIS = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def rows(n: int) -> Batch:
    return Batch({"x": torch.zeros(n, 3)}, rng=Rng(("seed",), torch.arange(n)))


class Fog(nn.Module):
    """The same density and white everywhere."""

    def forward(self, points: Tensor) -> Tensor:
        return torch.tensor([math.log(0.8), 50.0, 50.0, 50.0]).expand(len(points), 4)


def test_fog_in_a_cube_dims_light_by_the_exponential_law() -> None:
    scene = Radiance(nn.Identity(), Fog(), ring_cameras(1), 2, samples=4000)
    shown = scene({"ray": AXIS}, SEEN)["x0"]
    torch.testing.assert_close(shown, torch.full((1, 3), 1 - math.exp(-0.8 * 2)), rtol=1e-3, atol=0)


def test_a_blob_dims_light_by_the_integral_of_its_density() -> None:
    # along a ray through its centre the density of a Gaussian blob adds up to d s sqrt(2 pi)
    colours = torch.tensor([[0.3, 0.6, 0.9]])
    blob = Blobs(torch.zeros(1, 3), torch.tensor([0.15]), torch.tensor([3.0]), colours, floor=1e-9)
    scene = Radiance(nn.Identity(), blob, ring_cameras(3), 2, samples=600)
    ray = torch.cat((torch.zeros(3, 3), torch.nn.functional.normalize(torch.randn(3, 3, generator=seed()), dim=1)), 1)
    wanted = colours * (1 - math.exp(-3.0 * 0.15 * math.sqrt(2 * math.pi)))
    torch.testing.assert_close(scene({"ray": ray}, SEEN)["x0"], wanted.expand(3, 3), rtol=1e-3, atol=0)


def test_a_ray_of_a_pixel_has_the_colour_of_that_pixel() -> None:
    scene = load_bed("vox").players["teacher"](0)
    camera = torch.tensor([2, 5])
    point, ahead = scene.rays({"camera": camera})
    shown = scene({"camera": camera}, SEEN)["x0"].flatten(2).mT
    along = scene({"ray": torch.cat((point, ahead), 2).flatten(0, 1)}, SEEN)["x0"].view_as(shown)
    torch.testing.assert_close(along, shown, rtol=1e-4, atol=1e-5)


def test_a_grid_is_exact_for_linear_functions() -> None:
    grid, slope = GridFeatures(1, 5).double(), torch.tensor([1.0, -2.0, 0.5]).double()
    axis = torch.linspace(-1, 1, 5).double()
    with torch.no_grad():
        grid.nodes.copy_((torch.cartesian_prod(axis, axis, axis) @ slope).view(1, 1, 5, 5, 5))
    points = 2 * torch.rand(20, 3, generator=seed()).double() - 1
    torch.testing.assert_close(grid(points)[:, 0], points @ slope)


def test_a_tensor_of_rank_one_is_a_product_of_lines() -> None:
    tensor = TensorFeatures(1, 1, 9).double()
    with torch.no_grad():
        tensor.lines.copy_(torch.linspace(-1, 1, 9).expand(3, 1, 9))
        tensor.mix.weight.fill_(1.0)
        tensor.mix.bias.fill_(0.0)
    points = 2 * torch.rand(20, 3, generator=seed()).double() - 1
    torch.testing.assert_close(tensor(points)[:, 0], points.prod(1))


@pytest.mark.parametrize("first", [GridFeatures(3, 4), WaveFeatures(3, 8, 1, 2), TensorFeatures(3, 2, 4)])
def test_gradients_of_fields_are_those_of_finite_differences(first: nn.Module) -> None:
    scene = Radiance(first, decoder(3, 8), ring_cameras(2), 3, samples=6).double()
    view, value, h = {"camera": torch.tensor([0, 1])}, next(first.parameters()), 1e-6
    loss = scene(view, SEEN)["x0"].square().sum()
    (grad,) = torch.autograd.grad(loss, value)
    way = torch.randn(value.shape, generator=seed(), dtype=torch.float64)
    ends = []
    with torch.no_grad():
        for step in (h, -2 * h):
            value += step * way
            ends.append(float(scene(view, SEEN)["x0"].square().sum()))
    assert abs((ends[0] - ends[1]) / (2 * h) - float((grad * way).sum())) < 1e-5


def players(student: nn.Module, teacher: nn.Module) -> Players:
    return Players({n: Player(n, frozen(), net) for n, net in (("student", student), ("teacher", teacher))})


def test_random_rays_have_length_one_and_pass_the_plane_across_them() -> None:
    ray = random_rays()(None, rows(4000)).ray
    point, ahead = ray[:, :3], ray[:, 3:]
    torch.testing.assert_close(ahead.norm(dim=1), torch.ones(4000))
    assert (point * ahead).sum(1).abs().max() < 1e-5
    assert ahead.mean(0).abs().max() < 0.05  # all directions alike
    assert abs(float(point.square().sum(1).mean()) - 2 / 3) < 0.03  # two coordinates, each even over (-1, 1)


def test_what_is_distilled_is_zero_for_the_teacher_itself() -> None:
    bed = load_bed("vox")
    both = players(bed.players["teacher"](0), bed.players["teacher"](0))
    other = players(bed.players["student"](0), bed.players["teacher"](0))
    for loss in (volume_matching(), volume_matching(of="colour"), density_matching(), ray_matching()):
        same, others = (loss(who, random_rays()(None, rows(8))) for who in (both, other))
        assert same.abs().max() == 0 < others.max() and others.min() >= 0
    # the pictures of the bed are the teacher's own, but for the number of samples on a ray
    pixels = Batch(bed.data(0)["test"].take(torch.arange(64)))
    assert picture_matching()(both, pixels).max() < 1e-4


class Raw(nn.Module):
    def __init__(self, density: list[float]) -> None:
        super().__init__()
        self.density = nn.Parameter(torch.tensor([[density]]))

    def forward(self, batch, want):
        return {"density": self.density}


def test_density_is_matched_only_where_it_can_be_seen() -> None:
    student, teacher = Raw([-9.0, -1.0, 9.0, 8.0]), Raw([-5.0, 0.0, 8.0, 5.0])
    loss = density_matching()(players(student, teacher), Batch({"x": torch.zeros(1, 3)}))
    assert loss.tolist() == [(1 + 4) / 4]
    loss.sum().backward()
    assert student.density.grad.flatten().tolist() == [0.0, -0.5, 0.0, 0.0]


def test_blocks_of_other_sizes_are_refused() -> None:
    wide = Radiance(GridFeatures(3, 4), decoder(3), ring_cameras(1), 4, samples=32)
    with pytest.raises(Mismatch, match="blocks of one size"):
        volume_matching()(players(wide, load_bed("vox").players["teacher"](0)), random_rays()(None, rows(2)))
