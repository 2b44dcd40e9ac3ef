"""Curvatures of f-divergences: second differences of what SciPy says they are, and their duals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr

from limbeck.part import Part
from limbeck.parts import curvature as c

Density = Callable[[np.ndarray, np.ndarray], np.ndarray]
# the integrand of each divergence of p from q, as its name defines it and without its generator
NAMED: dict[str, tuple[Part, Density]] = {
    "reverse": (c.reverse_kl(), lambda p, q: rel_entr(q, p)),
    "forward": (c.forward_kl(), lambda p, q: rel_entr(p, q)),
    "jeffreys": (c.jeffreys(), lambda p, q: rel_entr(p, q) + rel_entr(q, p)),
    "jensen": (c.jensen_shannon(), lambda p, q: rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2)),
    "hellinger": (c.squared_hellinger(), lambda p, q: 2 * (np.sqrt(p) - np.sqrt(q)) ** 2),
    "softened": (c.softened_reverse_kl(), lambda p, q: 2 * rel_entr((p + q) / 2, p)),
    "neyman": (c.neyman(), lambda p, q: (p - q) ** 2 / (2 * p)),
    "pearson": (c.pearson(), lambda p, q: (p - q) ** 2 / (2 * q)),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_divergence_curves_in_the_student_as_its_part_says(name: str) -> None:
    # q f(p / q) has the second derivative r^2 f''(r) / q in q, whatever linear function f holds besides
    h, density = NAMED[name]
    p, q = (v.ravel() for v in np.meshgrid(np.linspace(0.2, 2.0, 9), np.linspace(0.3, 1.7, 8)))
    d = 1e-3 * q
    second = (density(p, q + d) - 2 * density(p, q) + density(p, q - d)) / d**2
    np.testing.assert_allclose(h(torch.tensor(p / q)).numpy(), q * second, rtol=2e-5)


@pytest.mark.parametrize(
    ("one", "other"),
    [("reverse", "forward"), ("neyman", "pearson")] + [(n, n) for n in ("jeffreys", "jensen", "hellinger")],
)
@given(r=st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_the_divergence_the_other_way_round_has_the_dual_curvature(one: str, other: str, r: float) -> None:
    # D(q || p) has the generator r f(1 / r), whose curvature is r h(1 / r)
    ratio = torch.tensor([r], dtype=torch.float64)
    torch.testing.assert_close(ratio * NAMED[one][0](1 / ratio), NAMED[other][0](ratio))


def test_divergences_that_cover_modes_weigh_what_the_student_is_short_of_more() -> None:
    r = torch.logspace(-2, 2, 50, dtype=torch.float64)
    assert all(bool((NAMED[n][0](r).diff() > 0).all()) for n in ("forward", "jeffreys", "hellinger", "pearson"))
    assert all(bool((NAMED[n][0](r).diff() < 0).all()) for n in ("softened", "neyman"))
    assert float(c.jensen_shannon()(r).max()) < 1
    for h, _ in NAMED.values():
        assert h(r.float().view(5, 10)).dtype == torch.float32 and h(r.view(5, 10)).shape == (5, 10)
