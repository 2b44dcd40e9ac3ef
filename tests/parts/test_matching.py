"""The distribution-matching gradient, its loss, and the discriminator, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import softplus

from limbeck.batch import Batch
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.beds._nets import fresh
from limbeck.part import terms
from limbeck.parts.distribution import distribution_matching, dm_gradient, fake_denoising, inject
from limbeck.parts.gan import Head, discriminator_head, gan_discriminator, gan_generator
from limbeck.parts.optimizer import adamw
from limbeck.parts.states import backward_simulated, uniform_levels
from limbeck.players import Players, build
from limbeck.rng import Rng
from limbeck.roles import built, frozen, learning

LEVELS = uniform_levels(low=0.1, high=0.9)


class Shift(nn.Module):
    """A generator x = z + mu with one weight."""

    def __init__(self, mu: Tensor) -> None:
        super().__init__()
        self.mu = nn.Parameter(mu.clone())

    def forward(self, batch, want):
        return {"x0": batch["x"] + self.mu}


class Conv(nn.Module):
    """A conditional field of images that reads the class y."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out, self.label = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1), nn.Embedding(5, 8)

    def forward(self, batch, want):
        features = self.inner(batch["x"]) + self.label(batch["y"])[:, :, None, None] + batch["t"][:, None, None, None]
        return {"features": features, "x0": self.out(features.tanh())}


def cast(student: nn.Module, teacher: nn.Module, critic: nn.Module, batch: Batch, learns: tuple[str, ...]) -> Players:
    roles = {"student": learning(adamw()), "teacher": frozen(), "critic": learning(adamw())}
    sources = {"student": student, "teacher": teacher, "critic": critic}
    if learns:
        roles["head"] = built(discriminator_head(width=8), adamw())
    players = build(roles, sources, batch)
    players.turn("test", learns or ("student",))
    return players


def rows(n: int, *shape: int, dtype: torch.dtype = torch.float32, **columns: Tensor) -> Batch:
    return Batch({"x": torch.zeros(n, *shape, dtype=dtype), **columns}, rng=Rng(("test", 0), torch.arange(n)))


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.lists(st.floats(-5, 5), min_size=6, max_size=6))
@settings(max_examples=30, deadline=None)
def test_the_gradient_of_inject_is_g(x: list[float], g: list[float]) -> None:
    # whatever x and g are, autograd of the loss gives back g
    x_t = torch.tensor(x, dtype=torch.float64).view(2, 3).requires_grad_()
    g_t = torch.tensor(g, dtype=torch.float64).view(2, 3)
    inject(x_t, g_t).sum().backward()
    torch.testing.assert_close(x_t.grad, g_t)


def test_the_direction_between_two_gaussians() -> None:
    # N(m, 1) under noise has posterior mean m + a (x - a m) / (a^2 + s^2), so mu_fake - mu_real = c (m_fake - m_real)
    # with c = 1 - a^2 / (a^2 + s^2) = s^2 / (a^2 + s^2)
    real = Mixture(torch.ones(1), torch.tensor([[1.0, -1.0]]), 1.0)
    fake = Mixture(torch.ones(1), torch.tensor([[3.0, 0.5]]), 1.0)
    x0 = fake.sample(50, 0)[0].double()
    t = torch.linspace(0.1, 0.9, 50, dtype=torch.float64)
    x = (1 - t)[:, None] * x0 + t[:, None] * torch.randn(50, 2, dtype=torch.float64)
    mu_real, mu_fake = (m.posterior(x, 1 - t, t)[0] for m in (real, fake))
    c = t**2 / ((1 - t) ** 2 + t**2)
    expected = c[:, None] * torch.tensor([2.0, 1.5]) / (x0 - mu_real).abs().mean(1, keepdim=True)
    torch.testing.assert_close(dm_gradient(x0, mu_real, mu_fake), expected, rtol=1e-10, atol=1e-12)


def test_a_sample_that_the_teacher_returns_unchanged_has_no_division_by_zero() -> None:
    x = torch.ones(2, 3)
    assert dm_gradient(x, x, x).eq(0).all()


def test_matching_two_gaussians_moves_the_mean_and_stops_there() -> None:
    # with the exact critic of z + mu, the gradient in mu is towards the teacher's mean, and zero once it is there
    def gradient(mu: Tensor) -> Tensor:
        batch = rows(256, 2, dtype=torch.float64)
        exact = [ExactField(Mixture(torch.ones(1), m[None], 1.0)) for m in (torch.tensor([1.0, -1.0]), mu)]
        student = Shift(mu)
        players = build(
            {"student": learning(adamw()), "teacher": frozen(), "critic": frozen()},
            {"student": student, "teacher": exact[0], "critic": exact[1]},
            batch,
        )
        players.turn("student", ("student",))
        states = backward_simulated(times=(1.0,))(players, batch)
        distribution_matching(levels=LEVELS).total(players, states)["loss"].backward()
        return student.mu.grad

    away = gradient(torch.tensor([3.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(away[0], away[1])  # both coordinates are off by 2
    assert away[0] > 0.05
    assert gradient(torch.tensor([1.0, -1.0], dtype=torch.float64)).abs().max() < 1e-12


def test_only_the_student_gets_a_gradient_from_matching_and_only_the_critic_from_denoising() -> None:
    batch = rows(16, 2)
    players = cast(fresh(0, 2), ExactField(Mixture(torch.ones(1), torch.zeros(1, 2), 1.0)), fresh(1, 2), batch, ())
    states = backward_simulated(times=(1.0,))(players, batch)
    for learner, other, loss in (
        ("student", "critic", distribution_matching(levels=LEVELS)),
        ("critic", "student", fake_denoising(levels=LEVELS)),
    ):
        players.turn(learner, (learner,))
        loss.total(players, states.with_())["loss"].backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in players[learner].module.parameters())
        assert all(p.grad is None for p in players[other].module.parameters())
        players[learner].module.zero_grad()


def test_denoising_is_least_at_the_exact_field_where_its_value_is_known() -> None:
    # x0 ~ N(0, 1): the posterior variance is s^2 / (a^2 + s^2); with weight (a / s)^2 + 1 the loss is 1 everywhere
    batch = rows(40_000, 2, dtype=torch.float64)
    exact = ExactField(Mixture(torch.ones(1), torch.zeros(1, 2), 1.0))
    players = build(
        {"student": frozen(), "critic": frozen()}, {"student": Shift(torch.zeros(2)), "critic": exact}, batch
    )
    states = backward_simulated(times=(1.0,))(players, batch)
    loss = fake_denoising(levels=LEVELS, sigma_data=1.0)(players, states)
    assert loss.shape == (40_000,)
    assert float(loss.mean()) == pytest.approx(1.0, abs=0.02)


def test_a_discriminator_that_knows_nothing_costs_log_four() -> None:
    batch = rows(8, 2)
    players = cast(fresh(0, 2), fresh(2, 2), fresh(1, 2), batch, ("critic", "head"))
    for p in players.head.module.parameters():
        p.data.zero_()
    states = backward_simulated(times=(1.0,))(players, batch)
    torch.testing.assert_close(gan_discriminator(levels=LEVELS)(players, states), torch.full((8,), math.log(4.0)))
    torch.testing.assert_close(gan_generator(levels=LEVELS)(players, states), torch.full((8,), math.log(2.0)))


def test_the_generator_loss_does_not_saturate() -> None:
    # where the discriminator is sure (D -> -inf) the slope of softplus(-D) in D tends to -1, not to 0
    d = torch.tensor(-30.0, requires_grad=True)
    softplus(-d).backward()
    assert float(d.grad) == pytest.approx(-1.0)


def test_images_with_a_class_and_features_with_positions() -> None:
    torch.manual_seed(0)
    batch = rows(4, 3, 6, 6, y=torch.tensor([0, 1, 2, 3]))
    players = cast(Conv(), Conv(), Conv(), batch, ("critic", "head"))
    states = backward_simulated(times=(1.0, 0.5))(players, batch)
    assert states.real is batch.x and states.x.shape == (4, 3, 6, 6) and states.y is batch.y
    critic = terms(denoise=fake_denoising(), gan=1e-2 * gan_discriminator()).total(players, states)
    sum(critic.values()).backward()
    assert all(p.grad is not None for p in players.head.module.parameters())
    players.turn("student", ("student",))
    student = terms(match=distribution_matching(), gan=3e-3 * gan_generator()).total(players, states.with_())
    assert set(student) == {"match", "gan"}
    sum(student.values()).backward()
    # the class reaches the student: the rows of its embedding that occur get a gradient, the other does not
    reached = players.student.module.label.weight.grad.abs().sum(1) > 0
    assert reached.tolist() == [True, True, True, True, False]


def test_the_head_fits_the_features_it_reads() -> None:
    head = Head(8, 16, "features")
    flat, grid = torch.randn(3, 8), torch.randn(3, 8, 4, 4)
    assert head({"features": flat}, frozenset({"logit"}))["logit"].shape == (3,)
    # positions are averaged
    same = head({"features": grid}, frozenset({"logit"}))["logit"]
    torch.testing.assert_close(same, head({"features": grid.mean((2, 3))}, frozenset({"logit"}))["logit"])
