"""A triangle rises to its peak and falls to its end, in straight lines."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.batch import Moment
from limbeck.parts.triangle import triangle


@given(steps=st.integers(50, 400), peak=st.floats(0.1, 9), share=st.floats(0.05, 0.9))
def test_it_has_two_slopes_and_the_ends_that_it_says(steps: int, peak: float, share: float) -> None:
    values = [triangle(peak=peak, end=0.05, warmup=share)(Moment(k, steps)) for k in range(steps)]
    assert values[0] > 0 and values[-1] == pytest.approx(0.05) and max(values) <= peak
    assert max(values) == pytest.approx(peak, rel=1 / (share * steps) + 1 / ((1 - share) * steps))
    bends = [b - a for a, b in pairwise(values)]
    top = values.index(max(values))
    for side in (bends[: top - 1], bends[top + 1 :]):
        assert all(bend == pytest.approx(side[0], abs=1e-9) for bend in side)


def test_without_a_rise_it_only_falls() -> None:
    assert [triangle(peak=1.0, warmup=0.0)(Moment(k, 5)) for k in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
