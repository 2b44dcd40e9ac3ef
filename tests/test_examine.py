"""Examinations: every figure computed again by hand from bare models, NumPy and SciPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.chat import chats
from limbeck.adapters.data import open_data
from limbeck.adapters.sentence import Sentence, encode
from limbeck.adapters.source import open_player, read_for
from limbeck.beds import load_bed
from limbeck.data import Table
from limbeck.errors import BadData
from limbeck.examine import AGREES, KEPT, KL, _answers_with, examine, examine_on_bed, examine_pairs
from tests.adapters import tiny
from tests.conftest import Net

WORDS = ["the cat sat", "the dog sat on the log", "a quick brown fox", "it is 42", "how much is 12 plus 30 ?"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CausalLM]:
    """Three small language models with one tokenizer."""
    root = tmp_path_factory.mktemp("models")
    return {who: open_player(tiny.write("gpt2", root / who, seed)).eval()
            for seed, who in enumerate(("teacher", "before", "after"))}  # type: ignore[misc]  # fmt: skip


def rows(path: Path, lines: list[dict[str, str]]) -> Any:
    import json

    (path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_data(path / "rows.jsonl")


def by_hand(models: dict[str, CausalLM], source: Any) -> dict[str, dict[str, list[float]]]:
    """Loss, divergence and agreement of each row, from the bare transformers models, one row at a time."""
    out: dict[str, dict[str, list[float]]] = {
        name: {w: [] for w in models} for name in ("loss", "kl", "agrees", "kept")
    }
    for i in range(len(source)):
        row = source.take(torch.tensor([i]))
        at = row["mask"][0].nonzero()[:, 0]
        with torch.no_grad():
            logp = {w: m.lm(row["tokens"]).logits[0, at - 1, : m.vocab].log_softmax(-1) for w, m in models.items()}
        p = logp["teacher"].exp()
        for who, q in logp.items():
            out["loss"][who].append(float(F.nll_loss(q, row["tokens"][0, at])))
            out["kl"][who].append(float((p * (logp["teacher"] - q)).sum(-1).mean()))
            out["agrees"][who].append(float((q.argmax(-1) == p.argmax(-1)).double().mean()))
            out["kept"][who].append(float(1 - 0.5 * (p - q.exp()).abs().sum(-1).mean()))
    return out


def test_token_figures_are_those_of_the_bare_models(models: dict[str, CausalLM], tmp_path: Path) -> None:
    lines = [{"prompt": a, "completion": " " + b} for a in WORDS for b in WORDS[:3]]
    source = chats(rows(tmp_path, lines), models["after"].tokenizer)
    exam = examine(models, source)
    expected = by_hand(models, source)
    names = ["loss on the reference (nats a token)", f"{KL} (nats a token)", AGREES, KEPT]
    drafted = [f"{of} of the teacher with it as a draft" for of in ("tokens a call", "speed-up")]
    assert [q.name for q in exam.qualities] == names + drafted
    assert [q.higher_is_better for q in exam.qualities] == [False, False, True, True, True, True]
    for quality in exam.qualities[4:]:
        assert set(quality.values) == {"before", "after"} and all(v.value > 0 for v in quality.values.values())
    assert all(1 <= v.value <= 5 for v in exam.qualities[4].values.values())
    for quality, name in zip(exam.qualities, ("loss", "kl", "agrees", "kept"), strict=False):
        assert quality.n == len(source) == 15
        for who, interval in quality.values.items():
            assert interval.value == pytest.approx(np.mean(expected[name][who]), abs=1e-5)
    assert set(exam.qualities[1].values) == {"before", "after"}
    for who, scores in exam.scores.items():
        np.testing.assert_allclose(scores, expected["loss"][who], atol=1e-5)
    assert not exam.higher_is_better and set(exam.costs) == set(models)


def test_logits_made_a_few_at_a_time_give_the_same_figures(
    models: dict[str, CausalLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"prompt": a, "completion": " the dog sat on the log"} for a in WORDS]
    source = chats(rows(tmp_path, lines), models["after"].tokenizer)
    at_once = examine(models, source)
    monkeypatch.setattr("limbeck.examine.LOGITS", 1200)  # three tokens of 400 at a time
    in_pieces = examine(models, source)
    for a, b in zip(at_once.qualities, in_pieces.qualities, strict=True):
        if a.name.startswith("speed-up"):  # a matter of the clock
            continue
        assert {w: v.value for w, v in a.values.items()} == pytest.approx({w: v.value for w, v in b.values.items()})


def greedy(model: CausalLM, text: str, most: int) -> str:
    """What transformers itself generates greedily."""
    coded = model.tokenizer(text, return_tensors="pt")
    said = model.lm.generate(  # type: ignore[operator]
        **coded,
        max_new_tokens=most,
        do_sample=False,
        pad_token_id=model.pad,
        eos_token_id=list(model.eos),
        suppress_tokens=[*range(model.vocab, 400)],  # the output layer is wider than the tokenizer
    )
    return str(model.tokenizer.decode(said[0, coded["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def test_prompts_alone_are_answered_by_the_teacher(models: dict[str, CausalLM], tmp_path: Path) -> None:
    source = chats(rows(tmp_path, [{"prompt": t} for t in WORDS]), models["after"].tokenizer)
    exam = examine(models, source)
    assert exam.notes == ["the rows hold no answers: the teacher's own greedy answers are the reference"]
    width = int(source.take(torch.arange(5))["prompt"].max())
    room = min(64, models["teacher"].context - width)  # type: ignore[operator]
    for i, text in enumerate(WORDS):
        assert exam.inputs[i] == text
        for who, model in models.items():
            assert exam.outputs[who][i] == greedy(model, text, room)
        assert exam.expected[i] == exam.outputs["teacher"][i]


def test_prompts_alone_without_a_teacher_are_refused(models: dict[str, CausalLM], tmp_path: Path) -> None:
    source = chats(rows(tmp_path, [{"prompt": t} for t in WORDS]), models["after"].tokenizer)
    with pytest.raises(BadData, match="prompts only, and there is no teacher to answer them: give --eval"):
        examine({who: models[who] for who in ("before", "after")}, source)


def test_right_answers_decide_where_somebody_gives_one(models: dict[str, CausalLM], tmp_path: Path) -> None:
    # the expected answer of each row is the last word that the student says, but for the last row
    source = chats(rows(tmp_path, [{"prompt": t} for t in WORDS]), models["after"].tokenizer)
    said = examine(models, source).outputs["after"]
    words = [text.split()[-1] if text.split() else "?" for text in said]
    lines = [{"prompt": t, "answer": w} for t, w in zip(WORDS[:4], words, strict=False)]
    asked = [*lines, {"prompt": WORDS[4], "answer": "none of this"}]
    exam = examine(models, chats(rows(tmp_path, asked), models["after"].tokenizer))
    hits = [float(_answers_with(s, w)) for s, w in zip(exam.outputs["after"], exam.expected, strict=True)]
    assert exam.expected == [line["answer"] for line in asked]
    assert exam.qualities[0].name == "right answers (greedy)" and exam.score == "right answer"
    assert exam.higher_is_better and list(exam.scores["after"]) == hits and hits[-1] == 0.0 < sum(hits)
    assert exam.qualities[0].values["after"].value == pytest.approx(np.mean(hits))


def test_rows_are_sliced_by_length_and_by_the_columns_that_name_them(
    models: dict[str, CausalLM], tmp_path: Path
) -> None:
    lines = [{"prompt": t, "completion": " mat", "category": "long" if len(t) > 12 else "short"} for t in WORDS]
    exam = examine(models, chats(rows(tmp_path, lines), models["after"].tokenizer))
    assert exam.slices["category"] == [line["category"] for line in lines]
    assert set(exam.slices) == {"category", "length in tokens"}


@pytest.mark.parametrize(
    ("said", "expected", "right"),
    [
        ("it is 42", "42", True), ("it is 42.", "42", True), ("42", " 42 ", True), ("so: 42 !", "42", True),
        ("it is 142", "42", False), ("it is 42 or 43", "42", False), ("it is 42a", "42", False), ("", "42", False),
        ("f(x)", "f(x)", True), ("is -3", "3", True),
    ],
)  # fmt: skip
def test_an_answer_is_right_if_it_ends_in_the_expected_word(said: str, expected: str, right: bool) -> None:
    assert _answers_with(said, expected) is right


# -- classifiers ------------------------------------------------------------------------------------------------------


def test_classifiers_are_judged_by_their_classes(tmp_path: Path) -> None:
    nets = {"teacher": Net(seed=0), "before": Net(seed=1), "after": Net(seed=2)}
    x, y = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    exam = examine(nets, Table({"x": x, "y": y}))
    accuracy, loss, agreement = exam.qualities
    with torch.no_grad():
        scores = {who: net.body(x).double().numpy() for who, net in nets.items()}
    for who, z in scores.items():
        says = z.argmax(1)
        assert accuracy.values[who].value == pytest.approx((says == y.numpy()).mean())
        nll = np.log(np.exp(z).sum(1)) - z[np.arange(50), y.numpy()]
        assert loss.values[who].value == pytest.approx(nll.mean(), abs=1e-6)
        softmax = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        np.testing.assert_allclose(exam.confidences[who], softmax.max(1), atol=1e-6)
        assert exam.outputs[who] == [str(c) for c in says]
        if who != "teacher":
            same = (says == scores["teacher"].argmax(1)).mean()
            assert agreement.values[who].value == pytest.approx(same)
    assert exam.expected == exam.slices["class"] == [str(int(c)) for c in y]
    assert list(exam.inputs) == [f"row {i}" for i in range(50)]


def test_a_text_classifier_shows_texts_and_names_of_classes(tmp_path: Path) -> None:
    nets = {
        who: open_player(tiny.write("bert", tmp_path / who, s)).eval() for s, who in enumerate(("teacher", "after"))
    }
    lines = [{"text": t, "label": f"LABEL_{i % 3}"} for i, t in enumerate(WORDS)]
    exam = examine(nets, read_for(nets["after"], rows(tmp_path, lines)))
    assert list(exam.inputs) == WORDS and exam.expected == [line["label"] for line in lines]
    bare, tokenizer = nets["after"].model, nets["after"].tokenizer
    with torch.no_grad():
        says = [f"LABEL_{int(bare(**tokenizer(t, return_tensors='pt')).logits.argmax())}" for t in WORDS]  # type: ignore[operator]
    assert exam.outputs["after"] == says


def test_the_first_four_hundred_rows_are_examined() -> None:
    table = Table({"x": torch.randn(450, 2), "y": torch.arange(450) % 3})
    exam = examine({"teacher": Net(), "after": Net(seed=1)}, table)
    assert exam.qualities[0].n == 400 and exam.inputs[-1] == "row 399"


# -- everything else --------------------------------------------------------------------------------------------------


def test_without_labels_the_distance_to_the_teacher_is_left() -> None:
    nets = {"teacher": Net(seed=0), "before": Net(seed=1), "after": Net(seed=0)}
    x = torch.randn(20, 2)
    exam = examine(nets, Table({"x": x}))
    (quality,) = exam.qualities
    with torch.no_grad():
        a, b = nets["before"].body(x).double().numpy(), nets["teacher"].body(x).double().numpy()
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert quality.values["before"].value == pytest.approx(cosine.mean(), abs=1e-6)
    assert quality.values["after"].value == pytest.approx(1.0)


@pytest.mark.parametrize("nets", [{"after": Net()}, {"teacher": Net(outputs=5), "after": Net()}])
def test_without_labels_and_a_teacher_of_its_shape_nothing_can_be_said(nets: dict[str, Net]) -> None:
    with pytest.raises(BadData, match="no labels and the student no teacher of its shape: give --eval with labels"):
        examine(nets, Table({"x": torch.zeros(4, 2)}))


def test_no_rows_are_refused() -> None:
    class Empty:
        fingerprint = ""

        def __len__(self) -> int:
            return 0

    with pytest.raises(BadData, match="no held-out rows"):
        examine({"after": Net()}, Empty())  # type: ignore[arg-type]


def test_embedders_are_judged_by_scipys_rank_correlation(tmp_path: Path) -> None:
    nets = {}
    for seed, who in enumerate(("teacher", "before", "after")):
        bare = open_player(tiny.write("bert-bare", tmp_path / who, seed))
        nets[who] = Sentence(bare.model, bare.tokenizer).eval()
    pairs = [(a, b) for i, a in enumerate(WORDS) for b in WORDS[i + 1 :]]
    ratings = [0, 3.5, 1, 5, 2, 2, 4, 1, 0.5, 3]  # with ties
    exam = examine_pairs(nets, pairs, ratings)
    (quality,) = exam.qualities
    for who, net in nets.items():
        one, two = (encode(net, [pair[k] for pair in pairs]).detach().double().numpy() for k in (0, 1))
        cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
        assert quality.values[who].value == pytest.approx(stats.spearmanr(cosine, ratings).statistic, abs=1e-9)
        far = np.abs(stats.rankdata(cosine) - stats.rankdata(ratings)) / len(pairs)
        np.testing.assert_allclose(exam.scores[who], -far, atol=1e-12)
        assert exam.outputs[who] == [f"cosine {c:.3f}" for c in cosine]
    assert quality.n == 10 and exam.inputs[0] == f"{WORDS[0]} | {WORDS[1]}" and exam.expected[1] == "rated 3.5"


def test_on_a_bed_every_model_sits_in_the_seat_of_the_student() -> None:
    bed = load_bed("digits_few")
    data = bed.data(0)
    nets = {"teacher": bed.players["teacher"](0), "before": bed.players["student"](0),
            "after": bed.players["student"](1)}  # fmt: skip
    for net in nets.values():
        net.eval()
    exam = examine_on_bed(nets, bed, data)
    found = {q.name: q for q in exam.qualities}
    test = data["test"].take(torch.arange(len(data["test"])))
    for who, net in nets.items():
        with torch.no_grad():
            right = (net(test, frozenset({"logits"}))["logits"].argmax(1) == test["y"]).float().mean()  # type: ignore[arg-type]
        assert found["accuracy"].values[who].value == pytest.approx(float(right))
    assert found["accuracy"].higher_is_better


def test_a_teacher_that_is_a_flow_is_sampled_by_its_flow() -> None:
    bed = load_bed("mog25")
    nets = {"teacher": bed.players["teacher"](0), "after": bed.players["student"](0)}
    exam = examine_on_bed(nets, bed, bed.data(0))
    found = {q.name: {who: v.value for who, v in q.values.items()} for q in exam.qualities}
    # the data themselves have quality 0.989; a student that has learnt nothing is measured by one step, as ever
    assert found["quality"]["teacher"] == pytest.approx(0.989, abs=0.01) and found["recall"]["teacher"] == 1
    assert found["quality"]["after"] < 0.5
