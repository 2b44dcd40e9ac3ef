"""Intervals, tests and measurements against SciPy, closed forms and their definitions."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from limbeck.errors import BadData, BadValue, UnknownName
from limbeck.evaluate import (
    Examination,
    Interval,
    bootstrap,
    buckets,
    bytes_on_disk,
    calibration,
    compare,
    compare_statistic,
    figures,
    mean_interval,
    measure_cost,
    measure_memory,
    measure_speed,
    sign_flip_test,
    statistic_test,
)
from limbeck.significance import student_t


def test_interval_of_a_mean_covers_the_truth_as_often_as_it_says():
    # 400 skewed samples of 40 rows: 95% nominal; four standard errors of the simulation are 4.4 points
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        _, low, high = mean_interval(rng.gamma(4.0, size=40), resamples=400)
        inside += low <= 4.0 <= high
    assert 0.90 <= inside / 400 <= 0.99


def spearman(x, y):
    """The rank correlation as a function of rows that takes many resamples at once."""

    def statistic(rows, axis=-1):
        a, b = stats.rankdata(x[rows], axis=axis), stats.rankdata(y[rows], axis=axis)
        a, b = a - a.mean(axis, keepdims=True), b - b.mean(axis, keepdims=True)
        return (a * b).sum(axis) / np.sqrt((a * a).sum(axis) * (b * b).sum(axis))

    return statistic


def test_interval_of_a_rank_correlation_covers_the_truth():
    # Spearman of a bivariate normal is 6/pi asin(rho/2)
    rng, rho = np.random.default_rng(1), 0.7
    truth, inside = 6 / np.pi * np.arcsin(rho / 2), 0
    for seed in range(60):
        x = rng.normal(size=60)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=60)
        value, low, high = bootstrap(spearman(x, y), 60, resamples=150, seed=seed)
        assert value == pytest.approx(stats.spearmanr(x, y).statistic)
        inside += low <= truth <= high
    assert inside >= 51


def test_interval_of_a_mean_agrees_with_the_normal_one_on_many_rows():
    # beyond 2000 rows the percentile interval is mean +- 1.96 s / sqrt(n)
    x = np.random.default_rng(2).normal(size=4000)
    value, low, high = mean_interval(x)
    half = 1.96 * x.std() / np.sqrt(4000)
    assert value == pytest.approx(x.mean())
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.1 * half)


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(3)
    ps = [sign_flip_test(rng.normal(size=30), resamples=999)[0] for _ in range(300)]
    assert stats.kstest(ps, "uniform").pvalue > 0.01


def test_p_values_of_a_correlation_are_not_too_small_when_nothing_differs():
    # the paired bootstrap test is asymptotic; 5% of 80 is 4, and 10 is three standard errors above
    rng, rejected = np.random.default_rng(4), 0
    for seed in range(80):
        truth = rng.normal(size=80)
        a, b = truth + rng.normal(size=80), truth + rng.normal(size=80)
        rejected += statistic_test(spearman(a, truth), spearman(b, truth), 80, resamples=60, seed=seed)[0] <= 0.05
    assert rejected <= 10


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=9).filter(any))
def test_sign_flips_are_exact_on_few_rows(d):
    # all 2^n sign patterns, counted by hand
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(d))).reshape(len(d), -1)
    truth = (np.abs(signs.T @ np.array(d)) >= abs(sum(d))).mean()
    assert sign_flip_test(d)[0] == pytest.approx(truth)


@pytest.mark.parametrize("n", [8, 40])
def test_sign_flips_agree_with_scipy(n):
    d = np.random.default_rng(n).normal(0.2, 1, size=n)
    truth = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=9999, rng=0).pvalue
    assert sign_flip_test(d)[0] == pytest.approx(truth, abs=0.02 if n > 13 else 1e-12)


def test_right_or_wrong_is_mcnemars_exact_test():
    before, after = np.repeat([0, 1, 0, 1], [50, 30, 9, 2]), np.repeat([0, 1, 1, 0], [50, 30, 9, 2])
    p, floor = sign_flip_test(after - before)
    assert p == pytest.approx(stats.binomtest(2, 11, 0.5).pvalue)
    assert floor == pytest.approx(2 / 2**11)


def test_the_floor_of_a_drawn_test_is_told_and_reached():
    p, floor = sign_flip_test(np.linspace(1, 2, 60), resamples=999)
    assert p == floor == 1 / 1000


def test_many_rows_are_as_welcome_as_few():
    # 2^3000 sign patterns are more than a float can count
    p, floor = sign_flip_test(np.random.default_rng(0).normal(size=3000), resamples=99)
    assert p > 0.02 and floor == 1 / 100
    assert sign_flip_test(np.ones(3000)) == (0.0, 0.0)


def test_paired_test_sees_what_an_unpaired_one_cannot():
    rng = np.random.default_rng(5)
    hard = rng.normal(0, 10, size=100)
    a, b = hard + 0.3 + rng.normal(0, 0.3, 100), hard + rng.normal(0, 0.3, 100)
    assert sign_flip_test(a - b)[0] < 0.001 < stats.ttest_ind(a, b).pvalue


@pytest.mark.parametrize("scores", [[0.3], [2.0, 2.0, 2.0]])
def test_rows_that_cannot_tell_give_no_interval(scores):
    assert mean_interval(scores) == Interval(scores[0], None, None)


def test_all_right_gets_wilsons_interval_instead_of_a_point():
    n, z = 20, stats.norm.ppf(0.975)
    _, low, high = mean_interval([1] * n)
    assert (low, high) == pytest.approx((n / (n + z**2), 1.0))


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [float("inf")], [[1.0]]])
def test_scores_that_are_none_or_not_finite_are_refused(bad):
    for fn in (mean_interval, sign_flip_test, lambda s: compare("accuracy", {"after": s})):
        with pytest.raises(BadData):
            fn(bad)


def test_a_correlation_without_spread_is_refused():
    with pytest.raises(BadData, match="nan"):
        bootstrap(lambda r: stats.spearmanr(np.ones(5)[r], np.arange(5)[r]).statistic, 5)


def test_comparison_holds_values_differences_and_the_share_kept():
    rng = np.random.default_rng(6)
    teacher = (rng.random(400) < 0.9).astype(float)
    after = teacher * (rng.random(400) < 0.95)
    q = compare("accuracy", {"teacher": teacher, "before": np.zeros(400), "after": after})
    assert q.n == 400 and q.values["after"].value == pytest.approx(after.mean())
    assert q.kept.value == pytest.approx(after.mean() / teacher.mean())
    assert q.kept.low < 0.95 < q.kept.high
    assert q.versus["teacher"].difference.value == pytest.approx((after - teacher).mean())
    assert q.versus["before"].p < 1e-50 and q.versus["before"].floor > 0


def test_comparison_by_a_statistic_agrees_with_that_by_the_mean():
    rng = np.random.default_rng(7)
    scores = {"teacher": rng.normal(1, 1, 200), "before": rng.normal(0, 1, 200), "after": rng.normal(0.8, 1, 200)}
    one = compare("score", scores)
    two = compare_statistic("score", {who: lambda r, s=s: s[r].mean() for who, s in scores.items()}, 200)
    for who in scores:
        assert two.values[who] == pytest.approx(one.values[who])
    assert two.versus["before"].p < 0.01 and one.versus["before"].p < 0.01
    assert two.versus["teacher"].p == pytest.approx(one.versus["teacher"].p, abs=0.05)


def test_rows_must_be_paired_and_models_known():
    with pytest.raises(BadData, match="paired"):
        compare("accuracy", {"teacher": [1, 0], "after": [1]})
    with pytest.raises(UnknownName, match="did you mean 'teacher'"):
        compare("accuracy", {"teachr": [1, 0]})
    with pytest.raises(UnknownName):
        Examination(scores={"afterwards": [1.0]})
    with pytest.raises(BadData, match="one length"):
        Examination(scores={"after": [1.0]}, inputs=["a", "b"])
    with pytest.raises(BadData, match="NaN"):
        Examination(scores={"after": [float("nan")]})
    with pytest.raises(BadData):
        figures("FID", {"after": float("nan")})


def test_calibrated_confidences_have_no_error_and_boasting_has_its_own():
    rng = np.random.default_rng(8)
    c = rng.random(20_000)
    right = (rng.random(20_000) < c).astype(float)
    assert calibration(c, right).ece < 0.02
    # always sure, right 60% of the time: ECE and Brier score are both 0.4
    boast = calibration(np.ones(10), [1] * 6 + [0] * 4)
    assert (boast.ece, boast.brier) == pytest.approx((0.4, 0.4))
    assert calibration(c, right).brier == pytest.approx(((c - right) ** 2).mean())
    with pytest.raises(BadData):
        calibration([1.2], [1])
    with pytest.raises(BadData):
        calibration([0.2], [0.5])


def test_worst_regressions_come_first_and_gains_never():
    exam = Examination(
        scores={"teacher": [1, 1, 0, 1, 1], "before": [1, 0, 0, 1, 1], "after": [0, 0, 1, 0, 1]},
        confidences={"after": [0.5, 0.9, 0.9, 0.8, 0.9]},
    )
    # rows 0 and 3 fell from both, row 3 with more confidence; row 1 only from the teacher
    assert [r.row for r in exam.regressions()] == [3, 0, 1]
    assert [r.row for r in exam.regressions(most=1)] == [3]
    lower = Examination(scores={"before": [1.0, 2.0], "after": [0.5, 4.0]}, higher_is_better=False)
    assert [(r.row, r.fall) for r in lower.regressions()] == [(1, 2.0)]
    assert Examination(scores={"after": [0.0]}).regressions() == []


def test_slices_hold_their_own_means_and_the_worst_leads():
    exam = Examination(
        scores={"teacher": [1, 1, 1, 1], "after": [1, 1, 0, 1]},
        slices={"source": ["a", "a", "b", "b"]},
    )
    b, a = exam.by_slice()
    assert (b.value, b.n, b.means["after"], b.difference.value) == ("b", 2, 0.5, -0.5)
    assert (a.value, a.difference) == ("a", Interval(0.0, None, None))
    many = Examination(scores={"teacher": [1.0] * 5, "after": [1.0] * 5}, slices={"word": list("aabcd")})
    assert {(s.value, s.n) for s in many.by_slice(most=1)} == {("a", 2), ("(other)", 3)}


def test_buckets_are_of_equal_size_and_cover_everything():
    labels = buckets(range(100), into=4)
    assert {labels.count(v) for v in labels} == {25} and len(set(labels)) == 4
    assert set(buckets([5, 5, 5])) == {"5"}


def test_an_examination_survives_the_disk(tmp_path):
    q = compare("accuracy", {"teacher": [1, 1, 0], "before": [0, 1, 0], "after": np.array([1, 1, 0])})
    net = torch.nn.Linear(4, 2)
    exam = Examination(
        qualities=[q, figures("FID", {"teacher": 3.0, "after": 4.0}, higher_is_better=False)],
        scores={"after": np.array([1.0, 0.0, 1.0])},
        inputs=["a", "é", "\n"],
        slices={"kind": ["x", "y", "x"]},
        costs={"after": measure_cost(net, lambda: net(torch.ones(8, 4)), 8, repeats=3)},
        notes=["no licence"],
    )
    path = exam.save(tmp_path)
    back = Examination.load(tmp_path)
    assert back.qualities == list(exam.qualities) and back.costs == exam.costs
    assert back.inputs == exam.inputs and list(back.scores["after"]) == [1.0, 0.0, 1.0]
    json.loads(path.read_text(), parse_constant=pytest.fail)  # strict JSON: no NaN


@pytest.mark.parametrize("text", ["", "{", "[]", '{"qualities": [{}], "costs": {}}', '{"other": 1}'])
def test_a_broken_file_is_told_by_its_name(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(BadData, match=r"evaluation\.json"):
        Examination.load(tmp_path)
    with pytest.raises(BadData, match="cannot read"):
        Examination.load(tmp_path / "nowhere")


def test_students_interval_holds_the_mean_of_few_figures_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = rejected = 0
    for _ in range(2000):
        sample = rng.normal(0.3, 2.0, 3)
        (value, low, high), p = student_t(sample)
        reference = stats.ttest_1samp(sample, 0.0)
        assert (value, p) == pytest.approx((sample.mean(), reference.pvalue))
        held += low <= 0.3 <= high
        rejected += student_t(sample - 0.3)[1] <= 0.05
    assert held == pytest.approx(1900, abs=40) and rejected == 2000 - held  # 4 standard errors
    for same in ([0.7], [0.7, 0.7, 0.7], [0.0, 0.0], [1e-9, 1e-9]):
        (value, *ends), p = student_t(same)
        assert value == pytest.approx(same[0]) and [*ends, p] == [None] * 3
    with pytest.raises(BadData, match="NaN"):
        student_t([1.0, float("nan")])


def test_speed_is_that_of_the_clock():
    speed = measure_speed(lambda: time.sleep(0.01), 5, warmup=0)
    assert 0.01 <= speed.low <= speed.median <= speed.high < 0.1 and speed.repeats == 5
    with pytest.raises(BadValue):
        measure_speed(lambda: None, 0)


N = 128
ONE = 4 * N * N  # bytes of a matrix


@pytest.mark.parametrize(
    ("call", "peak"),
    [
        (lambda x: x @ x, ONE),
        (lambda x: (x @ x) @ x, 2 * ONE),
        (lambda x: ((x @ x) @ x) @ x, 2 * ONE),  # the first product is gone when the third begins
        (lambda x: (x @ x) + (x @ x.T) + (x.T @ x), 3 * ONE),
        (lambda x: [x @ x for _ in range(5)], 5 * ONE),  # all are held to the end
        (lambda x: (x @ x).relu_(), ONE),
        (lambda x: x.T[1:].expand(7, N - 1, N), 0),  # views take nothing
        (lambda x: (x @ x).double(), ONE + 2 * ONE),
    ],
)
def test_memory_is_the_peak_of_what_a_call_holds(call, peak):
    x = torch.ones(N, N)
    for _ in range(2):  # what was freed before is counted again when it is taken again
        found, kind = measure_memory(lambda: call(x))
        assert found == peak and "allocator" in kind


def test_memory_counts_what_operators_hold_inside():
    # a convolution in float64 multiplies by the columns of the unfolded image, a tensor that Python never sees
    net, x = torch.nn.Conv2d(2, 4, 3, bias=False).double(), torch.ones(1, 2, 34, 34, dtype=torch.float64)
    unfolded, out = 8 * (2 * 3 * 3) * 32 * 32, 8 * 4 * 32 * 32
    with torch.no_grad():
        assert measure_memory(lambda: net(x))[0] == pytest.approx(unfolded + out, rel=0.02)


def test_memory_that_was_held_before_counts_neither_way(capfd):
    held = [torch.ones(N, N)]
    assert measure_memory(lambda: held.append(held.pop() @ torch.ones(N, N)))[0] == 2 * ONE
    with pytest.raises(ZeroDivisionError):
        measure_memory(lambda: 1 / 0)
    assert measure_memory(lambda: None)[0] == 0
    assert "profiler_start" not in capfd.readouterr().err


def test_a_cost_counts_weights_and_bytes(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub" / "b").write_bytes(b"123")
    net = torch.nn.BatchNorm1d(3)  # 6 weights; buffers: 6 floats and one int64
    cost = measure_cost(net, lambda: net(torch.ones(2, 3)), 2, path=tmp_path, repeats=2)
    assert (cost.parameters, cost.weight_bytes, cost.disk, cost.rows) == (6, 6 * 4 + 6 * 4 + 8, 8, 2)
    assert bytes_on_disk(tmp_path / "a") == 5


def test_a_teacher_that_is_worth_nothing_on_some_drawn_rows_leaves_a_share_without_an_interval() -> None:
    hits = np.array([1.0, 0.0, 0.0, 0.0])
    sides = {"teacher": 1.0, "before": 0.25, "after": 0.5}
    statistics = {who: (lambda rows, w=worth: float(w * hits[rows].mean())) for who, worth in sides.items()}
    quality = compare_statistic("hits", statistics, len(hits))
    assert quality.kept is not None and quality.kept.value == pytest.approx(0.5)
