"""Overrides: every path that `flatten` lists can be set, and nothing else."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import BadValue, UnknownName
from limbeck.override import flatten, override, variant
from limbeck.part import part, terms
from limbeck.parts.optimizer import adamw, sgd
from limbeck.parts.schedule import cosine, linear
from limbeck.recipe import Learn, Measure, Phase, Recipe, Repeat
from limbeck.roles import ema_of, frozen, learning


@part
def jsd(players, batch, *, beta: float = 0.5, top: int | None = None, both: bool = False, of: str = "logits"): ...


@part
def mse(players, batch, *, layers: tuple[int, ...] = (1, 2)): ...


@part
def mixed(players, batch, *, fraction: float = 0.5): ...


@part
def accuracy(players, data, *, n: int = 4): ...


def make() -> Recipe:
    """Every kind of node: terms, sums, weights, renamed players, a schedule, a repeat, a measure, an EMA."""
    loss = terms(kd=0.5 * jsd(), hidden=mse().on(teacher="ema") + jsd(beta=linear()) + jsd())
    distill = Learn("distill", (Phase("student", ("student",), loss, batch=mixed() >> mixed(fraction=0.1)),), steps=100)
    refine = Learn("refine", (Phase("main", ("student",), jsd()),))
    return Recipe(
        key="toy", title="", paper="", family="lm", kind="method", learns="", teacher="white-box",
        players={"student": learning(adamw(lr=1e-3)), "teacher": frozen(), "ema": ema_of("student", decay=0.9)},
        stages=(distill, Repeat("rounds", (refine,), times=3), Measure("figures", {"accuracy": accuracy()})),
        variants={"soft": {"kd.beta": 0.1, "distill.steps": 7}},
    )  # fmt: skip


def test_a_star_sets_all_that_end_so() -> None:
    before, after = flatten(make()), flatten(override(make(), {"*.steps": "5", "*.beta": 0.25}))
    ends = {path for path in before if path.rpartition(".")[2] in ("steps", "beta")}
    assert len(ends) == 6 and {after[path] for path in ends} == {5, 0.25}
    assert {path: value for path, value in after.items() if path.count(".loss") == 0 and path not in ends} == {
        path: value for path, value in before.items() if path.count(".loss") == 0 and path not in ends
    }
    with pytest.raises(UnknownName, match=r"\*\.stpes"):
        override(make(), {"*.stpes": 1})


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("distill.steps", "1e3", 1000),
        ("distill.clip", "2", 2.0),
        ("distill.data", "train", "train"),
        ("distill.student.learns", "student", ("student",)),
        ("distill.student.times", "5", 5),
        ("distill.student.loss.kd.weight", "0.25", 0.25),
        ("distill.student.loss.kd.weight", "linear(1, end=0)", linear(start=1, end=0)),
        ("distill.student.loss.kd.beta", "1e-4", 1e-4),
        ("distill.student.loss.kd.top", "none", None),
        ("distill.student.loss.kd.top", "3", 3),
        ("distill.student.loss.kd.both", "true", True),
        ("distill.student.loss.kd.of", "0.5", "0.5"),
        ("distill.student.loss.hidden.mse.layers", "(3, 4)", (3, 4)),
        ("distill.student.loss.hidden.mse.layers", "3", (3,)),
        ("distill.student.loss.hidden.jsd.beta.end", "0.5", 0.5),
        ("distill.student.loss.hidden.jsd_2.beta", "0.5", 0.5),
        ("distill.student.batch.mixed_2.fraction", "0.5", 0.5),
        ("rounds.times", "2", 2),
        ("rounds.refine.main.loss.beta", "0", 0.0),
        ("figures.accuracy.n", "9", 9),
        ("student.optimizer.lr", "cosine(1e-3, 1e-5)", cosine(start=1e-3, end=1e-5)),
        ("student.optimizer", "sgd(lr=0.5)", sgd(lr=0.5)),
        ("ema.decay", "1", 1.0),
        ("ema.every", "10", 10),
    ],
)
def test_text_is_read_by_the_type_of_its_target(path: str, text: str, value: object) -> None:
    before, after = flatten(make()), flatten(override(make(), {path: text}))
    assert after[path] == value and type(after[path]) is type(value)
    # nothing but the target, what lies above it and what lies below it changes
    other = [p for p in before if not p.startswith(path) and not path.startswith(p)]
    assert all(before[p] == after[p] for p in other)


@pytest.mark.parametrize(
    ("end", "path"),
    [
        ("kd.beta", "distill.student.loss.kd.beta"),
        ("lr", "student.optimizer.lr"),
        ("layers", "distill.student.loss.hidden.mse.layers"),
        ("refine.steps", "rounds.refine.steps"),
    ],
)
def test_an_end_that_one_path_has_will_do(end: str, path: str) -> None:
    value = (7,) if end == "layers" else 7
    assert override(make(), {end: value}) == override(make(), {path: value})


def test_an_end_that_several_paths_have_is_refused_with_all_of_them() -> None:
    with pytest.raises(BadValue, match=r"'steps' could mean distill\.steps, rounds\.refine\.steps in recipe toy"):
        override(make(), {"steps": 1})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("distil.steps", "did you mean 'distill.steps'"),
        ("distill.stepz", "unknown setting 'stepz' in distill of recipe toy; did you mean 'steps'"),
        ("distill.student.loss.kd.bta", "in distill.student.loss.kd of recipe toy; did you mean 'beta'"),
        ("kd.bta", "did you mean 'kd.beta'"),
        ("teacher.decay", "unknown setting 'decay' in teacher of recipe toy"),
        ("distill.name", "unknown setting 'name'"),
        ("", "unknown setting ''"),
    ],
)
def test_an_unknown_path_is_refused_with_the_near_one(path: str, said: str) -> None:
    with pytest.raises(UnknownName) as caught:
        override(make(), {path: 1})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("distill.steps", "many", "distill.steps must be int, got 'many'"),
        ("distill.steps", 1.5, "must be int"),
        ("distill.steps", "True", "must be int"),
        ("distill.steps", -1, "distill.steps must be at least 0, got -1"),
        ("distill.clip", "nan", "distill.clip must be float"),
        ("distill.clip", float("nan"), "must be a number"),
        ("kd.beta", "x", "distill.student.loss.kd.beta must be float, got 'x'"),
        ("kd.both", 1, "must be bool"),
        ("layers", "(1, 'a')", "must be a tuple of int, got 'a' in it"),
        ("kd.weight", "heavy", "must be"),
        ("distill", 3, "distill is a learn and cannot be set; set one of steps"),
        ("teacher", "frozen", "teacher must be a role"),
        ("student.optimizer", linear(), "must be a part (params)"),
        ("student.optimizer", "sgd(lr=open('x'))", "write a part with constants"),
        ("lr", "cosine(1, 2, 3, 4, 5, 6, 7)", "hyper-parameters, got 7 values"),
        ("distill.student.loss", 1.0, "must be an expression of parts"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_path(path: str, value: object, said: str) -> None:
    with pytest.raises(BadValue) as caught:
        override(make(), {path: value})
    assert said in str(caught.value)


def test_unknown_schedules_optimisers_and_hyper_parameters_are_named() -> None:
    with pytest.raises(UnknownName, match=r"unknown schedule 'cosin' in student.optimizer.lr; did you mean 'cosine'"):
        override(make(), {"lr": "cosin(1)"})
    with pytest.raises(UnknownName, match=r"unknown part 'adamx' in student.optimizer"):
        override(make(), {"student.optimizer": "adamx()"})
    with pytest.raises(UnknownName, match="unknown hyper-parameter 'stop' in part linear"):
        override(make(), {"lr": "linear(stop=1)"})


def test_a_recipe_that_a_change_breaks_is_refused() -> None:
    with pytest.raises(BadValue, match="learns 'teacher', which has no optimiser"):
        override(make(), {"distill.student.learns": ("teacher",)})


def test_roles_losses_and_variants_can_be_set_from_code() -> None:
    changed = override(make(), {"teacher": ema_of("student"), "distill.student.loss": jsd(beta=0.2)})
    assert changed.players["teacher"].decay == 0.999
    assert flatten(changed)["distill.student.loss.beta"] == 0.2
    soft = variant(make(), "soft")
    assert flatten(soft)["distill.student.loss.kd.beta"] == 0.1 and soft == override(make(), {"variant": "soft"})
    # later changes win over the variant
    assert flatten(override(make(), {"variant": "soft", "distill.steps": 8}))["distill.steps"] == 8
    with pytest.raises(UnknownName, match="unknown variant 'sft' in recipe toy; did you mean 'soft'"):
        variant(make(), "sft")


FLAT = flatten(make())


@pytest.mark.parametrize("path", FLAT)
def test_every_listed_path_takes_its_own_value_and_changes_nothing(path: str) -> None:
    assert override(make(), {path: FLAT[path]}) == make()


@given(st.floats(allow_nan=False, allow_infinity=True))
def test_numbers_survive_the_way_through_text(value: float) -> None:
    assert flatten(override(make(), {"kd.beta": repr(value)}))["distill.student.loss.kd.beta"] == value


@given(st.text(max_size=20))
def test_no_text_breaks_the_reader(text: str) -> None:
    # whatever is typed, the answer is a recipe or one of our errors
    for path in ("kd.beta", "layers", "student.optimizer", "kd.top", text):
        try:
            assert dataclasses.is_dataclass(override(make(), {path: text}))
        except (BadValue, UnknownName) as error:
            assert str(error)
