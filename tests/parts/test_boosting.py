"""Boosted prompts against the classic formulas, brute force, scikit-learn, and a black box that keeps count."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import AdaBoostClassifier
from sklearn.linear_model import LogisticRegression
from torch import nn

from limbeck.adapters.store import save_player
from limbeck.batch import Batch, Moment
from limbeck.data import Table
from limbeck.errors import BadValue, BadWeights
from limbeck.index import load
from limbeck.loop import Loop, Options
from limbeck.override import override
from limbeck.parts import boosting
from limbeck.parts.boosting import best_verbaliser, boost, fit_alone, open_voters, reweighted, samme_alpha, voters
from limbeck.players import Player, Players, build
from limbeck.recipe import Recipe
from limbeck.rng import Rng, derive
from limbeck.roles import built, frozen
from limbeck.run import Run

PROMPTS = ("{text} is {mask}.", "{mask}: {text}", "{text}? {mask}!")
CLASSES, WORDS = 3, 12


class BlackBox(nn.Module):
    """Fills gaps with words drawn from the text; fails after so many answers."""

    def __init__(self, fails_after: int = 10**9) -> None:
        super().__init__()
        self.mask, self.asked, self.seen, self.fails_after = "[GAP]", 0, list[str](), fails_after

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, Any]:
        assert want == {"mask_probs"}  # nothing else may be asked of a black box
        if self.asked + batch.size > self.fails_after:
            raise ConnectionError
        self.asked += batch.size
        self.seen += batch["text"]
        raw = [Rng((derive(text),), torch.arange(1)).normal("words", WORDS)[0] for text in batch["text"]]
        return {"mask_probs": torch.stack(raw).softmax(-1)}


def data() -> dict[str, Any]:
    sizes = {"train": 30, "valid": 12, "test": 20}
    return {s: Table({"text": [f"{s} {i}" for i in range(n)], "y": torch.arange(n) % 3}) for s, n in sizes.items()}


def recipe(**more: Any) -> Recipe:
    small = {"student.builder.prompts": PROMPTS, "student.builder.classes": CLASSES, "student.builder.learners": 8}
    return override(load("promptboosting"), {**small, "boost.steps": 8, "boost.step.top": 4, "ask.chunk": 7, **more})


def game(learners: int = 20, prompts: tuple[str, ...] = PROMPTS, classes: int = CLASSES) -> Players:
    made = built(voters(prompts=prompts, classes=classes, learners=learners))
    rows = Batch({"text": ["a"], "y": torch.zeros(1, dtype=torch.long)})
    return build({"teacher": frozen(), "student": made}, {"teacher": BlackBox()}, rows)


def rows(step: int, n: int = 60, seed: int = 0, prompts: int = 1) -> Batch:
    """Cached rows in which the words of a class are a little likelier than others."""
    y = torch.arange(n) % CLASSES
    raw = Rng(("rows", seed), torch.arange(n)).normal("p", prompts, WORDS)
    raw[torch.arange(n), :, y] += 0.7
    return Batch({"probs": raw.softmax(-1), "y": y}, rng=Rng((seed, step), torch.arange(n)), at=Moment(step, 20))


weights = st.lists(st.floats(0.01, 1), min_size=4, max_size=30).map(lambda w: torch.tensor(w, dtype=torch.double))


@given(weights, st.integers(1, 3))
@settings(deadline=None, max_examples=50)
def test_two_classes_are_classic_adaboost(raw: torch.Tensor, wrongs: int) -> None:
    """Freund and Schapire: alpha = ln((1 - e) / e) / 2 and w exp(-+ alpha) give the same weights as the SAMME form."""
    w, wrong = raw / raw.sum(), torch.arange(len(raw)) < wrongs
    error = w[wrong].sum()
    classic = ((1 - error) / error).log() / 2
    expected = w * torch.where(wrong, classic, -classic).exp()
    alpha = samme_alpha(error, 2, 10**6)
    torch.testing.assert_close(alpha, 2 * classic)
    torch.testing.assert_close(reweighted(w, wrong, alpha), expected / expected.sum())


@given(weights, st.integers(2, 6), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_weights_stay_a_distribution(raw: torch.Tensor, classes: int, error: float) -> None:
    """Whatever the error, 0 included, the weights are finite, positive and sum to 1."""
    alpha = samme_alpha(torch.tensor(min(error, 1 - 1 / classes)), classes, len(raw))
    after = reweighted(raw / raw.sum(), torch.arange(len(raw)) % 2 == 0, alpha)
    assert after.sum().item() == pytest.approx(1) and (after > 0).all()


def test_the_new_weights_of_wrong_rows_are_chance() -> None:
    """After a SAMME round the learner is exactly as good as chance on the new weights: e' = 1 - 1 / C."""
    w, wrong = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([True, True, False, False])
    after = reweighted(w, wrong, samme_alpha(w[wrong].sum(), 3, 10**6))
    assert after[wrong].sum().item() == pytest.approx(2 / 3)


def test_a_perfect_learner_counts_as_half_a_row_wrong() -> None:
    assert float(samme_alpha(torch.tensor(0.0), 2, 50)) == pytest.approx(math.log(99))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_verbaliser_is_the_best_of_all(classes: int) -> None:
    """With every word a candidate of every class, the error is the least over all V^C verbalisers."""
    rng = Rng(("brute", classes), torch.arange(25))
    probs, y, raw = rng.normal("p", 5).softmax(-1), rng.integers("y", classes), rng.uniform("w")
    w = raw / raw.sum()
    found = best_verbaliser(probs, y, w, torch.cartesian_prod(*[torch.arange(5)] * classes))
    each = [w[probs[:, list(words)].argmax(-1) != y].sum() for words in itertools.product(range(5), repeat=classes)]
    assert float(found.error) == pytest.approx(float(min(each)), abs=1e-6)
    assert torch.equal(found.wrong, probs[:, found.words].argmax(-1) != y)


def test_words_belong_to_the_class_that_they_fit() -> None:
    """Only candidate 0 of each class: the word that separates its class best, by the weighted sum of signs."""
    probs = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.1, 0.3, 0.6], [0.2, 0.1, 0.7]])
    found = best_verbaliser(probs, torch.tensor([0, 0, 1, 1]), torch.full((4,), 0.25), torch.tensor([[0, 0]]))
    assert found.words.tolist() == [0, 2] and float(found.error) == 0


class Verbaliser(ClassifierMixin, BaseEstimator):
    """One boosting round as an estimator of scikit-learn, which gives it the weights."""

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray) -> Verbaliser:
        self.classes_, self.own = np.arange(CLASSES), game(learners=20, prompts=PROMPTS[:1])
        self.step = Verbaliser.fitted
        Verbaliser.fitted += 1
        boost(top=5)(self.own, rows(self.step), {"weight": torch.tensor(sample_weight).float()})
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(X[:, self.own.student.words[self.step].numpy()].argmax(1))

    fitted = 0


def test_boosting_is_that_of_scikit_learn() -> None:
    """One prompt: the errors, the votes and the predictions of `AdaBoostClassifier` with the same weak learners."""
    own, state = game(learners=20, prompts=PROMPTS[:1]), {}
    errors = []
    for step in range(12):
        state, figures = boost(top=5)(own, rows(step), state)
        errors.append(float(figures["error"]))
        assert state["weight"].sum().item() == pytest.approx(1)
    x, y = rows(0).probs[:, 0].numpy(), rows(0).y.numpy()
    Verbaliser.fitted = 0
    theirs = AdaBoostClassifier(Verbaliser(), n_estimators=12).fit(x, y)
    np.testing.assert_allclose(theirs.estimator_errors_, errors, rtol=1e-4)
    np.testing.assert_allclose(theirs.estimator_weights_, own.student.alpha[:12], rtol=1e-4)
    assert own.student(rows(0), "logits").argmax(-1).tolist() == theirs.predict(x).tolist()
    assert len(set(errors)) > 6  # it did change its mind


def test_boosting_looks_at_what_was_wrong_and_equal_weights_do_not() -> None:
    """With one prompt, equal weights find the same error every round; boosting drives the training error down."""
    boosted, alone, state = game(prompts=PROMPTS[:1]), game(prompts=PROMPTS[:1]), {}
    flat = []
    for step in range(20):
        state, _ = boost(top=5)(boosted, rows(step), state)
        flat.append(float(fit_alone(top=5)(alone, rows(step), {})[1]["error"]))
    wrong = [float((p.student(rows(0), "logits").argmax(-1) != rows(0).y).float().mean()) for p in (boosted, alone)]
    assert max(flat) - min(flat) < 1e-6
    assert wrong[0] < wrong[1] - 0.05


def test_a_learner_no_better_than_chance_has_no_vote() -> None:
    """Every row the same: no verbaliser beats 1 - 1 / C, the weights stay, and nothing is voted."""
    own, same = game(), rows(0, prompts=3).with_(probs=torch.full((60, 3, WORDS), 1 / WORDS))
    state, _ = boost(top=4)(own, replace(same, at=Moment(0, 20)), {})
    torch.testing.assert_close(state["weight"], torch.full((60,), 1 / 60))
    assert float(own.student.alpha.abs().max()) == 0


def test_choosing_on_held_out_rows() -> None:
    """Learner 0 is always right, learner 1 outvotes it and is always wrong: keep the first, or the first alone."""
    own, y = game(learners=3, prompts=PROMPTS[:1]), torch.tensor([0, 1, 0, 1])
    own.student.words[:2], own.student.alpha[:2] = torch.tensor([[0, 1, 2], [1, 0, 2]]), torch.tensor([1.0, 5.0])
    probs = torch.eye(WORDS)[y][:, None]
    for choose in (boosting.keep_best_prefix, boosting.keep_best_learner):
        own.student.kept.fill_(True)
        choose()(own, Batch({"probs": probs, "y": y}), {})
        assert own.student.kept.tolist() == [True, False, False]
        assert own.student(Batch({"probs": probs}), "logits").argmax(-1).tolist() == y.tolist()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_readout_is_scikit_learns_logistic_regression(classes: int) -> None:
    batch = rows(0, prompts=3).with_(y=torch.arange(60) % classes)
    made = built(boosting.readout(prompts=PROMPTS, words=WORDS, classes=classes))
    own = build({"teacher": frozen(), "student": made}, {"teacher": BlackBox()}, batch)
    boosting.fit_logistic(strength=10.0)(own, batch, {})
    x = batch.probs.flatten(1).double().numpy()
    theirs = LogisticRegression(C=10.0, max_iter=2000).fit(x, batch.y.numpy())
    said = own.student(batch, "logits").softmax(-1).numpy()
    np.testing.assert_allclose(said, theirs.predict_proba(x), atol=1e-4)


def test_the_whole_recipe_asks_once_for_each_prompt_and_row() -> None:
    box = BlackBox()
    ended = Loop(recipe(), {"teacher": box}, data()).execute()
    assert box.asked == len(PROMPTS) * (30 + 12) == len(set(box.seen))
    fresh = ended.student(Batch({"text": ["a new text", "another"]}), "logits")
    assert fresh.shape == (2, CLASSES) and box.asked == len(PROMPTS) * (30 + 12 + 2)


def test_after_a_crash_no_kept_answer_is_asked_again(tmp_path: Path) -> None:
    """The box fails in the middle; what was journalled is kept, only the chunk in flight is asked again."""
    failing, fresh, whole = BlackBox(fails_after=50), BlackBox(), BlackBox()
    with pytest.raises(ConnectionError), Run(tmp_path / "run", {}) as run:
        Loop(recipe(), {"teacher": failing}, data(), Options(), run).execute()
    with Run(tmp_path / "run", {}, resume=True) as run:
        ended = Loop(recipe(), {"teacher": fresh}, data(), Options(), run).execute()
    uncut = Loop(recipe(), {"teacher": whole}, data()).execute()
    assert len(set(failing.seen) & set(fresh.seen)) < 7 * len(PROMPTS)
    assert set(failing.seen) | set(fresh.seen) == set(whole.seen)
    for name, value in uncut.student.module.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, ended.student.module.state_dict()[name]), name  # type: ignore[union-attr]


def test_what_is_saved_answers_with_the_same_black_box(tmp_path: Path) -> None:
    """The file holds prompts, words and votes, nothing of the black box; opened again it votes as before."""
    ended = Loop(recipe(), {"teacher": BlackBox()}, data()).execute()
    saved = save_player(ended.student.module, tmp_path / "student") / "model.safetensors"  # type: ignore[arg-type]
    again = open_voters(saved, Player("teacher", frozen(), BlackBox()))
    test = Batch(data()["test"].columns)
    assert again.prompts == PROMPTS
    assert torch.equal(again(test, frozenset({"logits"}))["logits"], ended.student(test, "logits"))
    assert set(again.state_dict()) == {"pool", "prompt", "words", "alpha", "kept"}
    with pytest.raises(BadWeights, match="voters"):
        open_voters(save_player(nn.Linear(2, 2), tmp_path / "other") / "model.safetensors", ended.teacher)


@pytest.mark.parametrize("prompts", [(), ("no gap {text}",), ("{mask} {mask} {text}",), ("{mask}",)])
def test_prompts_without_text_or_gap_are_refused(prompts: tuple[str, ...]) -> None:
    with pytest.raises(BadValue, match="prompt"):
        game(prompts=prompts)


def test_more_steps_or_classes_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(BadValue, match="room for 2 learners"):
        boost()(game(learners=2), rows(2, prompts=3), {})
    with pytest.raises(BadValue, match="largest class is 2"):
        boost()(game(classes=2), rows(0, prompts=3), {})
