"""Exact mixtures: their fields agree with each other, with autograd, with the flow they define and with samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch import Tensor

from limbeck.beds import load_bed
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.beds._nets import PointField, fresh
from limbeck.errors import BadValue

WANTS = frozenset({"x0", "eps", "velocity", "score", "log_density"})


def mixture(seed: int, k: int = 3, d: int = 2, kind: str = "full") -> Mixture:
    rng = torch.Generator().manual_seed(seed)
    root = torch.randn(k, d, d, generator=rng, dtype=torch.float64)
    cov = {"one": 0.3, "each": torch.rand(k, generator=rng) + 0.1, "full": root @ root.mT + 0.1 * torch.eye(d)}[kind]
    return Mixture(torch.rand(k, generator=rng) + 0.1, 2 * torch.randn(k, d, generator=rng), cov)


def points(n: int, d: int = 2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(9)
    return 2 * torch.randn(n, d, generator=rng, dtype=torch.float64), torch.rand(n, generator=rng).double() * 0.9 + 0.05


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 4), st.sampled_from(["one", "each", "full"]))
@settings(max_examples=25, deadline=None)
def test_all_answers_of_an_exact_field_agree(seed: int, k: int, d: int, kind: str) -> None:
    # x = a x0 + s e holds for the expectations; eps = -s score; v = eps - x0; score is the slope of the log density
    x, t = points(20, d)
    x.requires_grad_()
    a = ExactField(mixture(seed, k, d, kind))({"x": x, "t": t}, WANTS)
    t1 = t[:, None]
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close((1 - t1) * a["x0"] + t1 * a["eps"], x, **close)
    torch.testing.assert_close(a["eps"], -t1 * a["score"], **close)
    torch.testing.assert_close(a["velocity"], a["eps"] - a["x0"], **close)
    slope = torch.autograd.grad(a["log_density"].sum(), x)[0]
    torch.testing.assert_close(a["score"], slope, **close)


def test_the_log_density_is_that_of_scipy() -> None:
    m = mixture(4)
    x, _ = points(30)
    cov = torch.einsum("kde,ke,kfe->kdf", m.axes, m.spread, m.axes)
    a, s = 0.7, 0.4
    each = [
        w * multivariate_normal(a * mean, a**2 * c + s**2 * torch.eye(2, dtype=torch.float64)).pdf(x.numpy())
        for w, mean, c in zip(m.weights.tolist(), m.means, cov, strict=True)
    ]
    torch.testing.assert_close(m.log_density(x, a, s).exp(), torch.as_tensor(sum(each)), rtol=1e-10, atol=0)


def test_ends_of_the_path() -> None:
    # pure noise tells nothing: x0 is the mean of the data and eps the point itself; pure data hold no noise
    m = mixture(1)
    x, _ = points(5)
    x0, eps = m.posterior(x, 0.0, 1.0)
    torch.testing.assert_close(x0, m.moments[0].expand(5, 2))
    torch.testing.assert_close(eps, x)
    x0, eps = m.posterior(x, 1.0, 0.0)
    torch.testing.assert_close(x0, x)
    assert eps.eq(0).all()


def test_samples_have_the_moments_and_the_modes() -> None:
    m = mixture(2)
    x, mode = m.sample(200_000, 3)
    mean, cov = m.moments
    torch.testing.assert_close(x.double().mean(0), mean, atol=0.03, rtol=0.01)
    torch.testing.assert_close(torch.cov(x.double().T), cov, atol=0.06, rtol=0.02)
    torch.testing.assert_close(torch.bincount(mode) / len(mode), m.weights.float(), atol=0.005, rtol=0)
    assert torch.equal(x, m.sample(200_000, 3)[0]) and not torch.equal(x, m.sample(200_000, 4)[0])


def test_the_flow_of_one_gaussian_is_affine() -> None:
    # x_t ~ N((1 - t) m, (1 - t)^2 C + t^2 I) and the flow keeps the whitened point:
    # x_s = (1 - s) m + sd_s / sd_t (x_t - (1 - t) m) along every axis of C
    mean, sd = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.3, 1.7], dtype=torch.float64)
    m = Mixture(torch.ones(1), mean[None], sd.square().diag()[None])
    x, t = points(20)
    s = t.flip(0)
    t[0], s[0] = 1.0, 0.0

    def scale(r: Tensor) -> Tensor:
        return ((1 - r)[:, None].square() * sd.square() + r[:, None].square()).sqrt()

    expected = (1 - s)[:, None] * mean + scale(s) / scale(t) * (x - (1 - t)[:, None] * mean)
    torch.testing.assert_close(m.flow_map(x, t, s), expected, rtol=1e-8, atol=1e-8)


def test_the_flow_carries_noise_to_data_and_back() -> None:
    m = load_bed("mog8").players["oracle"](0).mixture
    z = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, zero = torch.ones(500), torch.zeros(500)
    x = m.flow_map(z, one, zero)
    torch.testing.assert_close(m.flow_map(x, zero, one), z, rtol=0, atol=1e-6)
    mode = torch.cdist(x, m.means).argmin(1)
    assert (torch.bincount(mode, minlength=8) / 500 - 1 / 8).abs().max() < 0.05
    # a Gaussian point lies within three standard deviations with probability 0.989
    assert abs(float((torch.cdist(x, m.means).min(1).values < 0.45).double().mean()) - 0.989) < 0.02
    # in two parts as in one
    half = m.flow_map(m.flow_map(z[:9], one[:9], one[:9] / 2), one[:9] / 2, zero[:9])
    torch.testing.assert_close(half, x[:9], rtol=0, atol=1e-7)


def test_bad_mixtures_are_refused() -> None:
    with pytest.raises(BadValue, match="2 modes in 3 dimensions"):
        Mixture(torch.ones(3), torch.zeros(2, 3), 1.0)
    with pytest.raises(BadValue, match="positive definite"):
        Mixture(torch.ones(1), torch.zeros(1, 2), torch.zeros(1, 2, 2))


@pytest.mark.parametrize(("key", "modes"), [("mog8", 8), ("mog25", 25), ("mog8w", 8)])
def test_beds_hold_disjoint_reproducible_splits(key: str, modes: int) -> None:
    bed = load_bed(key)
    assert bed.key == key
    data, again, other = bed.data(0), bed.data(0), bed.data(1)
    assert set(data) == {"train", "valid", "test"} and data["test"].columns["mode"].unique().numel() == modes
    for split, table in data.items():
        assert table.fingerprint == again[split].fingerprint != other[split].fingerprint
    assert not torch.equal(data["valid"].columns["x"], data["test"].columns["x"])


def test_only_the_teacher_of_mog8w_is_wrong_and_by_two() -> None:
    bed = load_bed("mog8w")
    truth, believed = (bed.players[p](0).mixture.weights for p in ("oracle", "teacher"))
    ratio = believed / truth
    torch.testing.assert_close(ratio / ratio[0], torch.tensor([1, 1, 1, 2, 1, 1, 0.5, 1], dtype=torch.float64))


def test_nets_answer_with_the_shapes_asked_and_agree_with_themselves() -> None:
    net = fresh(3, 2, classes=4)
    x, t = (v.float() for v in points(7))
    batch = {"x": x, "t": t, "z": x, "y": torch.arange(7) % 4}
    a = net(batch, frozenset({"x0", "eps", "velocity", "score", "features", "sample"}))
    assert {k: tuple(v.shape) for k, v in a.items() if not k.startswith("tap:")} == {
        **dict.fromkeys(("x0", "eps", "velocity", "score", "sample"), (7, 2)), "features": (7, 128)
    }  # fmt: skip
    torch.testing.assert_close((1 - t[:, None]) * a["x0"] + t[:, None] * a["eps"], x)
    # a sample is the prediction from pure noise; the class matters
    at_noise = net({**batch, "t": torch.ones(7)}, frozenset({"x0"}))["x0"]
    torch.testing.assert_close(a["sample"], at_noise)
    assert not torch.equal(net({**batch, "y": batch["y"].flip(0)}, frozenset({"x0"}))["x0"], a["x0"])


def test_the_initial_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    torch.manual_seed(5)
    a = fresh(1, 2).state_dict()
    before = torch.random.get_rng_state()
    b = fresh(1, 2).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["out.weight"], fresh(2, 2).state_dict()["out.weight"])
    assert sum(p.numel() for p in PointField(2).parameters()) == 18 * 128 + 128 + 2 * (128 * 128 + 128) + 2 * 128 + 2
