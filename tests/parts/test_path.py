"""Paths and heads: one exact teacher gives the same field on every path and by every head."""

from __future__ import annotations

from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from limbeck.adapters.field import Field
from limbeck.beds import load_bed
from limbeck.errors import BadValue, Mismatch
from limbeck.parts.jvp import jvp
from limbeck.parts.path import (
    EDM,
    RF,
    TRIG,
    VP_COSINE,
    Head,
    Path,
    data_head,
    edm_head,
    eps_head,
    from_rectified,
    score_head,
    to_rectified,
    v_head,
    velocity_head,
    vp_table,
)

TABLE = vp_table(diffusers.DDPMScheduler().alphas_cumprod.double())
PATHS = {"rf": RF, "cosine": VP_COSINE, "edm": EDM, "trig": TRIG, "table": TABLE}
HEADS: dict[str, Head] = {
    "x0": data_head,
    "eps": eps_head,
    "v": v_head,
    "velocity": velocity_head,
    "score": score_head,
    "edm": edm_head(0.7),
}
MIXTURE = load_bed("mog5").players["oracle"](0).mixture
WANTS = frozenset({"x0", "eps", "velocity", "score"})


def levels(n: int = 60) -> Tensor:
    """Ratios from where alpha or sigma is 1e-3, inside the table of DDPM."""
    return torch.sigmoid(torch.linspace(-4.5, 4.9, n, dtype=torch.float64))


def exact(path: Path, head: Head, x: Tensor, t: Tensor) -> Tensor:
    """What a perfect net of that path and head would answer, straight from the mixture on that path."""
    a, s = path.alpha(t), path.sigma(t)
    x0, eps = MIXTURE.posterior(x, a, s)
    p, q = head(path, t)
    return p[:, None] * x0 + q[:, None] * eps


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_on_every_path_is_one_field(path: str, head: str) -> None:
    chosen, predicts = PATHS[path], HEADS[head]
    t = levels()
    x = torch.randn(len(t), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    field = Field(torch.nn.Identity(), chosen, predicts, lambda net, x, t, batch: exact(chosen, predicts, x, t))
    found = field({"x": x, "t": t}, WANTS)
    truth = load_bed("mog5").players["oracle"](0)({"x": x, "t": t}, WANTS)
    for want in WANTS:
        scale = truth[want].abs().amax(1, keepdim=True)
        assert ((found[want] - truth[want]).abs() / scale).max() < 1e-10, want


@pytest.mark.parametrize("path", PATHS)
def test_there_and_back(path: str) -> None:
    t, x = levels(), torch.ones(60, 2, dtype=torch.float64)
    there = from_rectified(PATHS[path], x, t)
    back = to_rectified(PATHS[path], *there)
    torch.testing.assert_close(back[0], x, rtol=1e-12, atol=0)
    torch.testing.assert_close(back[1], t, rtol=1e-12, atol=0)


def test_the_flow_of_another_path_has_the_same_ends() -> None:
    # SciPy integrates the cosine path's own velocity; the mixture's flow map is on the path of rectified flow
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = torch.full((5,), 0.98, dtype=torch.float64)
    x, t = from_rectified(VP_COSINE, z, start)

    def slope(time: float, flat: np.ndarray) -> np.ndarray:
        now = torch.full((5,), time, dtype=torch.float64)
        return exact(VP_COSINE, velocity_head, torch.from_numpy(flat).view(5, 2), now).flatten().numpy()

    end = solve_ivp(slope, (float(t[0]), 1e-6), x.flatten().numpy(), rtol=1e-9, atol=1e-10).y[:, -1].reshape(5, 2)
    truth = MIXTURE.flow_map(z, start, torch.zeros(5))
    assert np.abs(end - truth.numpy()).max() < 1e-5


def test_the_table_is_that_of_the_scheduler() -> None:
    scheduler = diffusers.DDPMScheduler()
    x0, noise = torch.randn(4, 3), torch.randn(4, 3)
    t = torch.tensor([0, 3, 500, 999])
    noisy = scheduler.add_noise(x0, noise, t)
    a, s = TABLE.alpha(t.double()), TABLE.sigma(t.double())
    torch.testing.assert_close((a[:, None] * x0 + s[:, None] * noise).float(), noisy)
    torch.testing.assert_close(TABLE.time(s / a), t.double(), rtol=1e-9, atol=1e-9)


def test_a_table_without_signal_is_refused() -> None:
    for bad in ([0.9, 0.5, 0.0], [0.5, 0.9], [0.5], [1.0, 0.5]):
        with pytest.raises(BadValue, match="alphas_cumprod"):
            vp_table(torch.tensor(bad))


def test_an_answer_of_another_shape_is_refused() -> None:
    field = Field(torch.nn.Identity(), RF, eps_head, lambda net, x, t, batch: x[:, :1])
    with pytest.raises(Mismatch, match=r"\(2, 1\) to states \(2, 3\)"):
        field(SimpleNamespace(**{"__getitem__": None}).__dict__ | {"x": torch.ones(2, 3), "t": torch.ones(2)}, WANTS)


@pytest.mark.parametrize("path", PATHS)
def test_slopes_are_those_of_the_curves_and_can_be_differentiated_again(path: str) -> None:
    chosen = PATHS[path]
    t = chosen.time(torch.tensor([0.3, 0.8, 2.0], dtype=torch.float64))
    step = 1e-5 * (1 + t.abs())
    for k, curve in enumerate((chosen.alpha, chosen.sigma)):

        def slope(u: Tensor, k: int = k) -> Tensor:
            return chosen.slopes(u)[k]

        torch.testing.assert_close(slope(t), (curve(t + step) - curve(t - step)) / (2 * step), rtol=1e-5, atol=1e-7)
        bent = (slope(t + step) - slope(t - step)) / (2 * step)
        torch.testing.assert_close(jvp(slope, (t,), (torch.ones_like(t),))[1], bent, rtol=1e-4, atol=1e-6)
        forward = torch.func.jvp(slope, (t,), (torch.ones_like(t),))[1]
        torch.testing.assert_close(forward, bent, rtol=1e-4, atol=1e-6)
