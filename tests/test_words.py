"""Figures in words: rounding, units and sentences, against the values they stand for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.cost import Cost, Speed
from limbeck.evaluate import Examination, Interval, Quality, Versus
from limbeck.report import words

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}
BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SECONDS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}


def quality(after: float, teacher: float = 0.8, higher: bool = True) -> Quality:
    values = {"teacher": Interval(teacher), "after": Interval(after)}
    return Quality("accuracy", higher, values, kept=Interval(after / teacher))


def cost(parameters: int, seconds: tuple[float, float, float] | None = None, rows: int = 4) -> Cost:
    speed = None if seconds is None else Speed(seconds[1], seconds[0], seconds[2], 9)
    return Cost(parameters, 4 * parameters, speed=speed, rows=rows)


@settings(deadline=None)
@given(st.floats(1e-3, 1e8))
def test_a_number_is_read_back_within_half_a_percent(value: float) -> None:
    # From 10 to 1e9 at least three digits are shown; below, the last of three or four decimals.
    read = float(words.number(value).replace(",", ""))
    assert read == pytest.approx(value, rel=6e-3, abs=6e-4 if 0.1 <= value < 10 else 6e-5)


@settings(deadline=None)
@given(st.floats(-500, 500), st.sampled_from([0.05, 5.0, 50.0, 500.0, 5000.0]))
def test_figures_that_stand_together_have_the_same_decimals(value: float, scale: float) -> None:
    decimals = [len(words.number(v, scale).partition(".")[2]) for v in (value, scale, 0.0)]
    assert len(set(decimals)) == 1


def test_zero_is_zero_and_a_minus_is_kept() -> None:
    assert words.number(0.0) == "0"
    assert words.number(-0.25) == "-0.250"
    assert words.number(-1234567.0) == "-1,234,567"


@settings(deadline=None)
@given(st.integers(0, 10**12))
def test_a_count_is_read_back_from_its_unit(n: int) -> None:
    said = re.fullmatch(r"([\d.]+)([KMB]?)", words.count(n))
    assert said
    assert float(said[1]) * UNITS[said[2]] == pytest.approx(n, rel=6e-3)


@settings(deadline=None)
@given(st.integers(0, 2**40))
def test_bytes_are_read_back_from_binary_units(n: int) -> None:
    figure, unit = words.bytes_of(n).split()
    assert abs(float(figure) * BYTES[unit] - n) <= 0.051 * BYTES[unit]


@settings(deadline=None)
@given(st.floats(1e-6, 59.0))
def test_short_durations_are_read_back(s: float) -> None:
    figure, unit = words.seconds(s).split()
    assert float(figure) * SECONDS[unit] == pytest.approx(s, rel=6e-3)


@settings(deadline=None)
@given(st.integers(60, 10**6))
def test_long_durations_add_up(s: int) -> None:
    said = words.seconds(s)
    parts = [int(n) for n in re.findall(r"\d+", said)]
    if " h " in said:
        assert 0 <= s - 3600 * parts[0] < 3600 and 0 <= s - 3600 * parts[0] - 60 * parts[1] < 60
    else:
        assert 60 * parts[0] + parts[1] == s


def test_p_values_never_claim_more_than_the_test_could_show() -> None:
    # The smallest possible value is an upper bound, not an estimate; a floor of 1 says that nothing could be shown.
    assert words.p_value(0.125, 0.125) == "≤ 0.12"
    assert words.p_value(0.2, 0.125) == "0.2"
    assert words.p_value(1.0, 1.0) == "1"
    assert words.p_value(0.0001) == "0.0001"


def test_an_interval_shares_the_scale_of_its_table() -> None:
    of = Interval(0.5, -0.25, 1.25)
    assert words.interval(of, 250.0, sign=True) == "+0.5 (-0.2 to 1.2)"
    assert words.interval(Interval(-0.5, -1.0, 0.0), sign=True).startswith("-0.500 (")


@pytest.mark.parametrize(
    ("after", "teacher", "higher", "said"),
    [
        (0.4, 0.8, True, "keeps 50% of the teacher's accuracy"),
        (0.798, 0.8, True, "keeps 99.8% of the teacher's accuracy"),
        (0.88, 0.8, True, "reaches 110% of the teacher's accuracy"),
        (1.2, 0.8, False, "has 1.50 times the teacher's accuracy"),
        (2.4, 0.8, False, "has 3.0 times the teacher's accuracy"),
    ],
)
def test_what_was_kept_is_a_share_or_for_errors_a_multiple(
    after: float, teacher: float, higher: bool, said: str
) -> None:
    exam = Examination((quality(after, teacher, higher),))
    assert words.headline(exam, "done") == f"The student {said}."


@pytest.mark.parametrize(
    ("mine", "said"), [(5, "1/20 of the"), (30, "30% of the"), (100, "the same number of"), (250, "2.5 times the")]
)
def test_sizes_are_told_as_fractions_shares_or_multiples(mine: int, said: str) -> None:
    exam = Examination((quality(0.4),), costs={"teacher": cost(100), "after": cost(mine)})
    assert words.headline(exam, "done").endswith(f" at {said} parameters.")


def test_speed_is_per_row_and_overlapping_quartiles_are_no_difference() -> None:
    teacher = cost(100, (0.9, 1.0, 1.1), rows=2)
    # 1 s for 2 rows against 1 s for 8 rows: four times as fast a row.
    eight = cost(100, (0.9, 1.0, 1.1), rows=8)
    assert words.faster({"teacher": teacher, "after": eight}) == pytest.approx(4.0)
    told = words.headline(Examination((quality(0.4),), costs={"teacher": teacher, "after": eight}), "done")
    assert told.endswith("4.0x faster on this machine.")
    told = words.headline(Examination((quality(0.4),), costs={"teacher": eight, "after": teacher}), "done")
    assert told.endswith("4.0x slower on this machine.")
    near = cost(100, (1.0, 1.05, 1.2), rows=2)
    told = words.headline(Examination((quality(0.4),), costs={"teacher": teacher, "after": near}), "done")
    assert told.endswith("about as fast on this machine.")
    assert words.faster({"teacher": teacher, "after": cost(100)}) is None


@pytest.mark.parametrize(("value", "higher", "tone"), [(0.2, True, "good"), (0.2, False, "bad"), (-0.2, False, "good")])
def test_better_depends_on_the_direction_of_the_measure(value: float, higher: bool, tone: str) -> None:
    found = Versus(Interval(value, value - 0.1, value + 0.1), 0.01, 0.001)
    said = words.versus(quality(0.4, higher=higher), "before", found)
    assert said[0] == tone
    assert said[1].startswith({"good": "Better", "bad": "Worse"}[tone] + " than the student before distillation")
    assert words.versus(quality(0.4), "teacher", Versus(Interval(value), 0.051))[0] == "open"
