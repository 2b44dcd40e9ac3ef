"""Probes of diffusion against closed forms, SciPy and POT."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import numpy as np
import ot
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import expm
from scipy.stats import energy_distance, multivariate_normal, norm, ortho_group
from torch import Tensor

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.data import Table
from limbeck.errors import BadData, BadValue, UnknownName
from limbeck.part import part
from limbeck.parts.scene import Particles
from limbeck.parts.solver import even, third
from limbeck.players import Player, Players
from limbeck.probes import agreement
from limbeck.probes.editing import class_distance, displacement, inversion_error, target_accuracy
from limbeck.probes.endpoint import endpoint_error, exact_end
from limbeck.probes.field_game import alarms, kernel_floor
from limbeck.probes.flow_likelihood import exact_divergence, flow_log_density, flow_nll, probed_divergence
from limbeck.probes.forgetting import override_distance, still_drawn
from limbeck.probes.frechet import frechet, polynomial_mmd
from limbeck.probes.lesser import lesser
from limbeck.probes.made import made_sw2
from limbeck.probes.samplers import class_purity, class_w2, sampler_gap
from limbeck.probes.scenes import reference_gap, references_reached
from limbeck.probes.straightness import curvature, transport_cost
from limbeck.rng import Rng
from limbeck.roles import frozen

NOBODY = Players({})


def flow(velocity: Callable[[Batch], Tensor]) -> Players:
    return Players({"student": Player("student", frozen(), answer=lambda b, want: {"velocity": velocity(b)})})


def cast(**nets: torch.nn.Module) -> Players:
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@part
def moved(players: Players, batch: Batch, *, by: tuple[float, ...] = (0.0,), times: float = 1.0) -> Tensor:
    """The data, stretched and moved."""
    return times * batch.x + torch.tensor(by, dtype=batch.x.dtype)


@part
def column(players: Players, batch: Batch, *, name: str = "drawn") -> Tensor:
    """What a column holds."""
    return batch[name]


@part
def from_noise(players: Players, batch: Batch, *, by: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Where the flow of N((1, -2), 0.3^2 I) carries the noise of a row, moved."""
    return torch.tensor([1.0, -2.0]) + 0.3 * batch.rng.normal("z", 2) + torch.tensor(by)


GAUSSIAN = ExactField(Mixture(torch.ones(1), torch.tensor([[1.0, -2.0]]), 0.3))


def test_the_density_of_a_linear_flow_is_that_of_its_matrix_exponential() -> None:
    a, x = 0.5 * draws(4, 4, seed=1), draws(7, 1, 2, 2)
    own = flow(lambda b: (b.x.flatten(1) @ a.T).view(b.x.shape))
    found = flow_log_density(own.student, Batch({"x": x}), third(), even(32, 0.0, 1.0), exact_divergence())
    ends = x.flatten(1).numpy() @ expm(a.numpy()).T
    due = multivariate_normal(np.zeros(4)).logpdf(ends) + float(a.trace())
    np.testing.assert_allclose(found.numpy(), due, rtol=1e-4)


def test_the_density_of_a_gaussian_flow_is_that_of_scipy() -> None:
    mean, cov = torch.tensor([[0.5, -1.0]]), torch.tensor([[[0.8, 0.3], [0.3, 0.5]]])
    own, x = cast(student=ExactField(Mixture(torch.ones(1), mean, cov))), draws(9, 2)
    due = multivariate_normal(mean[0], cov[0]).logpdf(x.numpy())
    errors = []
    for steps in (10, 20):
        found = flow_log_density(own.student, Batch({"x": x}), third(), even(steps, 0.0, 1.0), exact_divergence())
        errors.append(float(np.abs(found.numpy() - due).max()))
    assert errors[1] < 5e-3 and errors[1] < errors[0] / 5  # order 3


def test_directions_of_one_and_minus_one_leave_nothing_to_chance_without_cross_terms() -> None:
    # r' A r is the trace of A for diagonal A, and 0 for a skew one, whatever r
    rates, data = torch.tensor([0.5, -1.0, 2.0]).double(), {"test": Table({"x": draws(20, 3)})}
    for divergence in (exact_divergence(), probed_divergence()):
        _, spread = divergence(flow(lambda b: rates * b.x), Batch({"x": draws(5, 3)}))
        torch.testing.assert_close(spread, torch.full((5,), 1.5).double())
        turning = flow(lambda b: torch.stack((-b.x[:, 1], b.x[:, 0], 0 * b.x[:, 2]), 1))
        assert float(divergence(turning, Batch({"x": draws(5, 3)}))[1].abs().max()) < 1e-12
        ahead = flow(lambda b: torch.full_like(b.x, 3.0))
        due = -float(norm.logpdf(draws(20, 3).numpy() + 3).sum(1)[:12].mean())
        assert flow_nll(divergence=divergence, rows=12)(ahead, data) == pytest.approx(due, rel=1e-9)


def test_a_flow_to_one_point_is_straight_and_costs_the_way_there() -> None:
    point, data = torch.tensor([2.0, -1.0]), {"test": Table({"x": torch.zeros(50, 2)})}
    own = flow(lambda b: (b.x - point) / b.t[:, None])
    z = Rng(("probe",), torch.arange(50)).normal("z", 2)
    assert curvature()(own, data) < 1e-9
    assert transport_cost()(own, data) == pytest.approx(float((z - point).square().sum(1).mean()), rel=1e-5)


def test_the_bend_of_a_gaussian_flow_is_an_integral() -> None:
    # x_t = d(t) z with d the deviation at t: the velocity is d' z, and the way between the ends (1 - s) z
    s, data = 0.3, {"test": Table({"x": torch.zeros(30, 2)})}
    own = cast(student=ExactField(Mixture(torch.ones(1), torch.zeros(1, 2), s)))
    integral = quad(lambda t: (t - s**2 * (1 - t)) ** 2 / ((1 - t) ** 2 * s**2 + t**2), 0, 1)[0]
    bend, cost = (probe(steps=200, rows=30)(own, data) for probe in (curvature, transport_cost))
    assert bend / cost == pytest.approx(integral / (1 - s) ** 2 - 1, rel=0.05)


def test_distances_along_a_line_are_those_of_pot() -> None:
    x, y = draws(40, 1), torch.arange(40) % 2
    drawn, data = 1.5 * x + 0.7, {"test": Table({"x": x, "y": y}), "made": Table({"x": 1.5 * x[:30] + 0.7})}

    def far(a: Tensor, b: Tensor) -> float:
        return math.sqrt(float(ot.wasserstein_1d(a[:, 0].numpy(), b[:, 0].numpy(), p=2)))

    draw = moved(by=(0.7,), times=1.5)
    assert sampler_gap(draw=draw, other=moved())(NOBODY, data) == pytest.approx(far(drawn, x))
    assert made_sw2()(NOBODY, data) == pytest.approx(far(drawn[:30], x[:30]))
    each = [[far(drawn[y == a], x[y == b]) for b in (0, 1)] for a in (0, 1)]
    assert class_w2(draw=draw)(NOBODY, data) == pytest.approx((each[0][0] + each[1][1]) / 2)
    found = override_distance(draw=draw, forget=(0,), override=1)(NOBODY, data)
    assert found == pytest.approx((each[0][1] + each[1][1]) / 2)
    with pytest.raises(BadData, match="'gone', which a stage makes: this run has made, test"):
        made_sw2(made="gone")(NOBODY, data)


def test_a_sample_is_pure_in_any_mode_of_its_class_and_nowhere_else() -> None:
    # modes at 0, 10 and 20 of deviation 1, the outer two of one class
    x = torch.tensor([-1.0, 1, 9, 11, 19, 21])[:, None]
    drawn = torch.tensor([0.0, 20, 0, 12.9, 23.1, 16.5])[:, None]  # own, own, another class, own, too far, too far
    columns = {"x": x, "drawn": drawn, "mode": torch.tensor([0, 0, 1, 1, 2, 2]), "y": torch.tensor([0, 0, 1, 1, 0, 0])}
    assert class_purity(draw=column())(NOBODY, {"test": Table(columns)}) == pytest.approx(0.5)
    with pytest.raises(UnknownName, match="mode"):
        class_purity(draw=column())(NOBODY, {"test": Table({k: v for k, v in columns.items() if k != "mode"})})


def test_two_samplers_are_compared_noise_by_noise_and_the_lesser_probe_counts() -> None:
    data = {"test": Table({"x": draws(12, 2)})}
    near, far = (agreement.sampler_gap(first=moved(), second=moved(by=by)) for by in ((3.0, 4.0), (6.0, 8.0)))
    assert near(NOBODY, data) == pytest.approx(25) and far(NOBODY, data) == pytest.approx(100)
    assert lesser(first=near, second=far)(NOBODY, data) == lesser(first=far, second=near)(NOBODY, data)
    assert lesser(first=far, second=near)(NOBODY, data) == pytest.approx(25)


def test_edits_are_measured_by_how_far_they_went_and_to_what() -> None:
    real, y = draws(30, 1), torch.arange(30) % 2
    made = Table({"x": real + 2, "real": real, "target": 1 - y})
    data = {"edited": made, "test": Table({"x": real, "y": y})}
    assert displacement()(NOBODY, data) == pytest.approx(2)
    gaps = [energy_distance((real + 2)[1 - y == c, 0], real[y == c, 0]) for c in (0, 1)]
    assert class_distance()(NOBODY, data) == pytest.approx(sum(gaps) / 2)
    pictures = Table(
        {"x": torch.ones(4, 1, 3, 3), "real": torch.tensor([1.0, 0, 1, 1]).view(4, 1, 1, 1).expand(4, 1, 3, 3)}
    )
    assert displacement(rows=2)(NOBODY, {"edited": pictures}) == pytest.approx(math.sqrt(9 / 2))
    with pytest.raises(UnknownName, match="real"):
        displacement(edited="test")(NOBODY, data)


def test_edits_to_the_middle_of_a_mode_are_of_its_class() -> None:
    oracle = load_bed("mog8c").players["oracle"](0)
    target = torch.arange(8) % 4
    target[:2] += 1  # two wrong ones
    made = {"edited": Table({"x": oracle.mixture.means.float(), "target": target})}
    assert target_accuracy()(cast(oracle=oracle), made) == pytest.approx(6 / 8)


def test_inversions_and_samplers_are_held_against_the_affine_flow_of_a_gaussian() -> None:
    own, x = cast(oracle=GAUSSIAN), draws(20, 2)
    noise = (x - torch.tensor([1.0, -2.0])) / 0.3
    made = {"edited": Table({"x": x, "real": x, "noise": noise + torch.tensor([0.3, 0.4])})}
    assert inversion_error()(own, made) == pytest.approx(0.5, rel=1e-5)
    data = {"test": Table({"x": torch.zeros(20, 2)})}
    batch = Batch({"x": torch.zeros(6, 2)}, rng=Rng(("seed",), torch.arange(6)))
    torch.testing.assert_close(exact_end()(own, batch), from_noise()(own, batch), rtol=1e-5, atol=1e-5)
    assert endpoint_error(draw=from_noise())(own, data) < 1e-5
    assert endpoint_error(draw=from_noise(by=(3.0, 4.0)))(own, data) == pytest.approx(5, rel=1e-5)
    with pytest.raises(UnknownName, match="oracle"):
        endpoint_error(draw=from_noise())(cast(student=GAUSSIAN), data)


def test_a_forgotten_class_is_judged_by_the_nearest_datum() -> None:
    x, drawn = torch.tensor([0.0, 1, 10, 11])[:, None], torch.tensor([0.4, 10.2, 10, 11])[:, None]
    data = {"test": Table({"x": x, "drawn": drawn, "y": torch.tensor([0, 0, 1, 1])})}
    shares = [still_drawn(classes=c, draw=column())(NOBODY, data) for c in ((0,), (1,), (0, 1))]
    assert shares == pytest.approx([0.5, 1.0, 0.75])


def test_particles_are_held_against_every_object_from_all_cameras() -> None:
    # object 0 shows 0 and 0, object 1 shows 2 and 4; particles show 1 and 3 from everywhere
    rows = Table({"x": torch.tensor([0.0, 0, 2, 4])[:, None], "mode": torch.tensor([0, 0, 1, 1])})
    for value, gap, reached in (([1.0, 3.0], 1.0, 2), ([3.0, 3.5], (1 + math.sqrt(1.25)) / 2, 1)):
        own = cast(scene=Particles(torch.tensor(value).view(1, 2, 1)))
        assert reference_gap()(own, {"test": rows}) == pytest.approx(gap)
        assert references_reached()(own, {"test": rows}) == reached


def test_the_frechet_distance_moves_with_its_samples() -> None:
    x, y, turn = draws(60, 3), 2 * draws(50, 3, seed=1) + 1, torch.from_numpy(ortho_group.rvs(3, random_state=0))
    due = frechet(x, y)
    assert frechet(x @ turn + 5, y @ turn + 5) == pytest.approx(due)
    assert frechet(3 * x, 3 * y) == pytest.approx(9 * due)
    # along the axes of one covariance only deviations count: |m|^2 + sum (s - r)^2
    factors, off = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([1.0, 0.0, -2.0]).double()
    values, axes = torch.linalg.eigh(torch.cov(x.T))
    due = 5 + float((values.sqrt() * (factors - 1)).square().sum())
    assert frechet(x, (x - x.mean(0)) @ axes * factors @ axes.T + x.mean(0) + off) == pytest.approx(due)


@pytest.mark.parametrize("other", [(0.0, 1.0, 3.0), (1.0, 2.0)], ids=["equal laws", "others"])
def test_the_kernel_distance_is_right_on_average_over_all_draws(other: tuple[float, ...]) -> None:
    law = (0.0, 1.0, 3.0)

    def k(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        return float(np.mean((np.outer(a, b) + 1) ** 3))

    pairs = itertools.product(itertools.product(law, repeat=2), itertools.product(other, repeat=2))
    found = [polynomial_mmd(torch.tensor(a)[:, None], torch.tensor(b)[:, None]) for a, b in pairs]
    assert np.mean(found) == pytest.approx(k(law, law) + k(other, other) - 2 * k(law, other), abs=1e-9)
    assert min(found) < 0  # as only an estimate without bias can be


def test_the_floor_of_two_points_is_an_integral() -> None:
    # x = +1 or -1 seen with a signal to noise ratio g: E (x - tanh(g + sqrt(g) z))^2 = 1 - E tanh(g + sqrt(g) z)
    x, t = torch.tensor([1.0, -1.0]).double().repeat(2_000)[:, None], 0.5
    seen = (1 - t) * x + t * draws(4_000, 1)
    g = ((1 - t) / t) ** 2
    due = 1 - quad(lambda z: norm.pdf(z) * math.tanh(g + math.sqrt(g) * z), -9, 9)[0]
    assert kernel_floor(x, torch.full((4_000,), t), seen, x[:2]) == pytest.approx(due, rel=0.06)


def test_a_collapsed_student_is_told_of_and_a_class_without_rows_is_refused() -> None:
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    data = {"test": Table({"x": x, "y": torch.zeros(64, dtype=torch.int64)})}
    point = Player("point", frozen(), answer=lambda b, want: {"x0": torch.full_like(b.x, 7.0)})
    players = Players({"student": point, "critic": point, "teacher": point})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert alarms()(players, data) >= 2
    assert {"mean", "variance"} <= {w for w in ("mean", "variance") if any(w in str(t.message) for t in told)}
    with pytest.raises(BadValue, match="no row of class 3"):
        override_distance(forget=(0,), override=3)(players, data)
