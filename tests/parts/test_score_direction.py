"""Score directions against what their equations say of exact fields."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.errors import BadValue
from limbeck.part import Part
from limbeck.parts.scene import Particles
from limbeck.parts.score_direction import (
    critic_denoising,
    delta_denoising,
    latent_levels,
    noise_free,
    score_distillation,
    variational_score,
)
from limbeck.parts.states import uniform_levels
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

N = 6
HALF = uniform_levels(low=0.5, high=0.5)
TEACHER = load_bed("mog8c").players["oracle"](0)


def world(critic: torch.nn.Module | None = None, **columns: Tensor) -> tuple[Players, Batch, Tensor]:
    """A scene of as many points as there are rows, one row for each; and the points."""
    start = torch.randn(1, N, 2, generator=torch.Generator().manual_seed(0))
    scene = Particles(start.double())
    nets = {"scene": scene, "teacher": TEACHER} | ({"critic": critic} if critic else {})
    rows = {"x": start[0].double(), "particle": torch.arange(N), "y": torch.zeros(N, dtype=torch.int64)}
    players = Players({name: Player(name, frozen(), net) for name, net in nets.items()})
    return players, Batch(rows | columns, rng=Rng(("seed",), torch.arange(N))), scene.value


def gradient(loss: Part, critic: torch.nn.Module | None = None, seed: int = 0, **columns: Tensor) -> Tensor:
    players, batch, value = world(critic, **columns)
    batch = Batch(dict(batch), rng=Rng(("seed", seed), torch.arange(N)))
    return torch.autograd.grad(loss(players, batch).sum(), value)[0][0]


def eps(x: Tensor, t: float, y: int) -> Tensor:
    rows = {"x": x, "t": torch.full((len(x),), t, dtype=x.dtype), "y": torch.full((len(x),), y)}
    return TEACHER(rows, frozenset({"eps"}))["eps"]


class Dirac(torch.nn.Module):
    """The exact critic of a scene that is one point a row."""

    classes = 4

    def __init__(self, at: Tensor) -> None:
        super().__init__()
        self.at = at

    def forward(self, batch, want):
        t = batch["t"][:, None]
        return {"eps": (batch["x"] - (1 - t) * self.at) / t}


def test_sds_is_the_gradient_of_the_denoising_loss_without_the_jacobian_of_the_field() -> None:
    # L = w / (2 a) |eps(a x + s e) - e|^2; with d eps / d x_t replaced by 1, dL/dx = w (eps - e), w = 1/2 at t = 1/2
    x, e = world()[1].x, Rng(("seed", 0), torch.arange(N)).fold("score").normal("noise", 2).double()
    x = x.clone().requires_grad_()
    seen = 0.5 * x + 0.5 * e
    straight = eps(seen.detach(), 0.5, 0) + seen - seen.detach()  # as if the field had a unit Jacobian
    loss = 0.5 / (2 * 0.5) * (straight - e).square().sum()
    (wanted,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient(score_distillation(levels=HALF, scale=1.0)), wanted)


def test_vsd_is_sds_where_the_critic_is_exact_for_one_point() -> None:
    sds = gradient(score_distillation(scale=7.5))
    vsd = gradient(variational_score(scale=7.5), Dirac(world()[1].x))
    torch.testing.assert_close(vsd, sds, rtol=1e-5, atol=1e-5)


def test_vsd_vanishes_where_the_critic_is_the_teacher() -> None:
    assert gradient(variational_score(scale=1.0), TEACHER).abs().max() == 0
    assert gradient(variational_score(scale=2.0), TEACHER).abs().max() > 0


def test_vsd_descends_the_divergence_between_two_gaussians() -> None:
    # at level t both are Gaussian: eps_teacher - eps_critic = t ((x_t - a m) - (x_t - a c)) / (a^2 + t^2)
    a = t = 0.5
    mean, centre = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.3, 0.4]])
    fields = [ExactField(Mixture(torch.ones(1), m, 1.0)) for m in (mean, centre)]
    players, batch, value = world(fields[1])
    players = Players({**players, "teacher": Player("teacher", frozen(), fields[0])})
    loss = variational_score(levels=HALF, scale=1.0)(players, batch)
    wanted = 0.5 * t * a * (centre - mean) / (a**2 + t**2)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), value)[0][0], wanted.expand(N, 2).double())


def test_delta_denoising_is_exactly_zero_for_the_same_picture_and_prompt() -> None:
    same = torch.zeros(N, dtype=torch.int64)
    assert gradient(delta_denoising(), target=same).abs().max() == 0
    assert gradient(delta_denoising(), target=same + 1).abs().max() > 0
    assert gradient(score_distillation(scale=7.5)).abs().max() > 0


def test_delta_denoising_moves_nothing_outside_the_region() -> None:
    region = torch.tensor([[1.0, 0.0]]).expand(N, 2)
    whole, part = (gradient(delta_denoising(), target=torch.ones(N).long(), **c) for c in ({}, {"region": region}))
    assert torch.equal(part[:, 0], whole[:, 0]) and part[:, 1].abs().max() == 0


def test_the_noise_free_direction_has_no_noise_and_splits_at_its_level() -> None:
    # prompt 1 from the end is class 3 here; below the split the whole of eps(none) is the domain
    batch = world()[1]
    e = Rng(("seed", 0), batch.rng.rows).fold("score").normal("noise", 2).double()
    seen = 0.5 * batch.x + 0.5 * e
    none, bad, y = (eps(seen, 0.5, k) for k in (4, 3, 0))
    for split, domain in ((0.4, none - bad), (0.6, none)):
        wanted = 0.5 * (domain + 7.5 * (y - none))
        torch.testing.assert_close(gradient(noise_free(levels=HALF, split=split)), wanted)


def test_a_critic_that_is_exact_has_no_loss_and_another_has() -> None:
    players, batch, _ = world(Dirac(world()[1].x))
    assert critic_denoising()(players, batch).max() < 1e-8
    players, batch, _ = world(Dirac(world()[1].x + 1))
    # a critic that is off by 1 in x0 is off by a / t in the noise
    torch.testing.assert_close(critic_denoising(levels=HALF)(players, batch), torch.ones(N).double())


def test_guidance_needs_classes() -> None:
    players, batch, _ = world()
    plain = Players({**players, "teacher": Player("teacher", frozen(), load_bed("mog8").players["oracle"](0))})
    score_distillation(scale=1.0)(plain, batch)
    with pytest.raises(BadValue, match="has 0 classes"):
        score_distillation()(plain, batch)


def test_latent_levels_are_those_of_the_table() -> None:
    diffusers = pytest.importorskip("diffusers")
    table = diffusers.DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear").alphas_cumprod
    batch = Batch({"x": torch.zeros(1, 1)})
    for n in (20, 500, 980):
        ratio = ((1 - table[n]) / table[n]).sqrt()
        torch.testing.assert_close(latent_levels(low=n / 1000, high=n / 1000)(None, batch)[0], ratio / (1 + ratio))
