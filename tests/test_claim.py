"""The judge of claims can say yes and can say no."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from limbeck import claim as claims
from limbeck.beds import Bed
from limbeck.claim import Trial, conclude, judge, tune, verify
from limbeck.data import Table
from limbeck.errors import BadValue, BrokenRecipe, UnknownName
from limbeck.part import part
from limbeck.players import Players
from limbeck.recipe import Arm, Claim, Inequality, Learn, Phase, Recipe, Tune, less, more, within
from limbeck.roles import frozen, learning
from tests.conftest import Net
from tests.test_loop import mse, sgd


@part(higher=True)
def score(players: Players, data: Any, *, k: float = 1.0) -> float:
    x = data["test"].columns["x"]
    wrong = players.student.module.body(x) - players.teacher.module.body(x)
    return -float(wrong.square().mean())


def claim(says: tuple[Inequality, ...], **changes: Any) -> Claim:
    arms = {"long": Arm(), "short": Arm(set={"fit.steps": 1}), "off": Arm(set={"fit.steps": 1})}
    given: dict[str, Any] = {
        "bed": "toy",
        "arms": arms,
        "probes": {"score": score()},
        "says": says,
        "control": "off",
        "no_tune": "equal",
    }
    return Claim(**given | changes)


def recipe(what: Claim | None) -> Recipe:
    facts = dict(title="t", paper="p", family="f", kind="method", learns="s", teacher="white-box")
    fit = Learn("fit", (Phase("student", ("student",), mse()),), steps=40, batch_size=16)
    return Recipe("toy", players={"student": learning(sgd()), "teacher": frozen()}, stages=(fit,), claim=what, **facts)


def data(seed: int) -> dict[str, Table]:
    x = torch.randn(90, 2, generator=torch.Generator().manual_seed(seed))
    return {name: Table({"x": piece}) for name, piece in zip(("train", "valid", "test"), x.split(30), strict=True)}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    nets: dict[str, Any] = {"student": lambda seed: Net(seed=seed), "teacher": lambda seed: Net(seed=99)}
    monkeypatch.setattr(claims, "load_bed", lambda key: Bed("toy", "", nets, data))
    monkeypatch.setattr(claims, "EVIDENCE", tmp_path)
    monkeypatch.setattr(claims, "fingerprint", lambda key: "f")

    def make(what: Claim | None) -> None:
        monkeypatch.setattr(claims, "load", lambda key: recipe(what))

    return make


def test_a_true_claim_holds_and_its_control_loses(toy: Any) -> None:
    toy(claim((more("score", "long", "short", by=0.01),)))
    evidence = verify("toy", say=lambda line: None)
    assert evidence["status"] == "holds"
    assert evidence["verdicts"][0]["holds"] and not evidence["control"][0]["holds"]


def test_a_false_claim_fails(toy: Any) -> None:
    toy(claim((more("score", "short", "long", by=0.01),), control="long"))
    assert verify("toy", say=lambda line: None)["status"] == "fails"


def test_an_effect_that_is_too_small_fails(toy: Any) -> None:
    toy(claim((more("score", "long", "short", by=1e6),)))
    assert verify("toy", say=lambda line: None)["status"] == "fails"


def test_a_control_that_keeps_the_effect_fails(toy: Any) -> None:
    arms = {"long": Arm(), "short": Arm(set={"fit.steps": 1}), "off": Arm(set={"fit.steps": 39})}
    toy(claim((more("score", "long", "short", by=0.01),), arms=arms))
    evidence = verify("toy", say=lambda line: None)
    assert evidence["verdicts"][0]["holds"] and evidence["status"] == "fails"


def test_a_recipe_without_claim_and_too_few_seeds_are_refused(toy: Any) -> None:
    toy(None)
    with pytest.raises(BadValue, match="makes no claim"):
        verify("toy")
    toy(claim((more("score", "long", "short", by=0.01),)))
    with pytest.raises(BadValue, match="at least 3"):
        verify("toy", seeds=2)


def test_tuning_takes_the_best_point_and_never_sees_test_rows(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"long": {"student.optimizer.lr": (1e-6, 0.1)}, "short": {"student.optimizer.lr": (1e-6, 0.1)}}
    what = claim((more("score", "long", "short", by=0.01),), tune=Tune("score", grid))
    toy(what)
    seen: list[Any] = []
    figures = Trial.figures
    monkeypatch.setattr(Trial, "figures", lambda self, *a: seen.append(a) or figures(self, *a))
    chosen = tune(Trial(recipe(what), what, lambda line: None))
    assert chosen == {"long": {"student.optimizer.lr": 0.1}, "short": {"student.optimizer.lr": 0.1}}
    assert {split for *_, split in seen} == {"valid"}
    assert min(min(seeds) for *_, seeds, _ in seen) >= claims.TUNING_SEEDS


def test_an_arm_is_tuned_anew_only_where_its_grid_is_new(
    toy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(claims, "EVIDENCE", tmp_path)
    old = {
        "tuned": {"long": {"lr": 0.3}, "short": {"lr": 0.1}},
        "grid": {"long": {"lr": [0.3]}, "short": {"lr": [0.1]}},
    }
    (tmp_path / "toy.json").write_text(json.dumps(old))
    grid = {"long": {"lr": (0.3,)}, "short": {"student.optimizer.lr": (0.2,)}}
    what = claim((more("score", "long", "short", by=0.01),), tune=Tune("score", grid))
    toy(what)
    known = claims.remembered("toy", what)
    assert known == {"long": {"lr": 0.3}}
    tuned = tune(Trial(recipe(what), what, lambda line: None), known)
    assert tuned == {"long": {"lr": 0.3}, "short": {"student.optimizer.lr": 0.2}}


def test_arms_are_tuned_with_equal_numbers_of_trials(toy: Any) -> None:
    grid = {"long": {"fit.steps": (1, 2)}, "short": {"fit.steps": (1,)}}
    what = claim((more("score", "long", "short", by=0.01),), tune=Tune("score", grid))
    with pytest.raises(BrokenRecipe, match="same number of trials"):
        tune(Trial(recipe(what), what, lambda line: None))


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=8), st.floats(0.0, 2.0))
@settings(deadline=None)
def test_the_bound_is_the_t_interval_of_scipy(left: list[float], by: float) -> None:
    verdict = judge(more("p", "a", "b", by=by), {"a": {"p": left}, "b": {"p": [0.0] * len(left)}})
    if statistics.stdev(left) > 1e-3:
        low, _ = stats.t.interval(0.8, len(left) - 1, loc=sum(left) / len(left), scale=stats.sem(left))
        assert verdict.bound == pytest.approx(low, abs=1e-9)
        assert verdict.holds == (sum(left) / len(left) >= by and low > 0)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=8), st.floats(0.01, 2.0))
@settings(deadline=None)
def test_no_worse_by_more_than_a_margin_is_a_test_of_the_margin(left: list[float], margin: float) -> None:
    verdict = judge(more("p", "a", "b", by=-margin), {"a": {"p": left}, "b": {"p": [0.0] * len(left)}})
    if statistics.stdev(left) > 1e-3:
        assert verdict.holds == (stats.ttest_1samp(left, -margin, alternative="greater").pvalue < 0.1)
    assert str(less("p", "a", "b", by=-0.5)) == "p[a] <= p[b] + 0.5"


def test_less_is_more_turned_round_and_identities_hold_on_every_seed() -> None:
    figures = {"a": {"p": [1.0, 1.1, 0.9]}, "b": {"p": [2.0, 2.0, 2.2]}}
    assert judge(less("p", "a", "b", by=0.5), figures).holds and not judge(less("p", "b", "a", by=0.5), figures).holds
    assert judge(within("p", "a", 1.1), figures).holds and not judge(within("p", "a", 1.0), figures).holds


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_figures_that_are_not_finite_never_hold(odd: float) -> None:
    figures = {"a": {"p": [1.0, 1.0, odd]}, "b": {"p": [0.0, 0.0, 0.0]}}
    assert not judge(more("p", "a", "b", by=0.1), figures).holds
    assert not judge(within("p", "a", 2.0), figures).holds


def test_a_claim_names_arms_and_probes_that_exist_and_a_control() -> None:
    with pytest.raises(UnknownName, match="unknown arm 'lnog'"):
        claim((more("score", "lnog", "short", by=0.1),))
    with pytest.raises(UnknownName, match="unknown probe 'scroe'"):
        claim((more("scroe", "long", "short", by=0.1),))
    with pytest.raises(BrokenRecipe, match="control"):
        claim((more("score", "long", "short", by=0.1),), control="")


def test_a_comparison_without_tuning_gives_its_reason() -> None:
    with pytest.raises(BrokenRecipe, match="no_tune"):
        claim((more("score", "long", "short", by=0.1),), no_tune="")
    assert claim((within("score", "long", 0.1),), no_tune="").tune is None


def test_conclude_puts_the_control_in_the_winners_place() -> None:
    what = claim((more("score", "long", "short", by=0.1),))
    figures = {
        "long": {"score": [1.0, 1.1, 1.0]},
        "short": {"score": [0.0, 0.1, 0.0]},
        "off": {"score": [0.0, 0.0, 0.1]},
    }
    found = conclude(what, figures)
    assert found["status"] == "holds" and found["control"][0]["left"] == (0.0, 0.0, 0.1)


def test_evidence_with_an_offset_is_never_written(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "EVIDENCE", tmp_path)
    with pytest.raises(BadValue, match="seeds are not chosen"):
        claims.write_evidence({"key": "toy", "seed_offset": 5})
    assert not list(tmp_path.iterdir())
