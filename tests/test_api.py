"""`distill` from end to end on small models: what is saved, what is examined, and what is left as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import limbeck.api
from limbeck import compare, distill, verify
from limbeck.adapters.source import open_player
from limbeck.errors import BadData, BadValue, RunConflict, UnknownName
from limbeck.evaluate import Examination
from tests.adapters import tiny

SAID = ["the mat", "the log", "a fox", "42", "it is 42 , said the user"]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and rows that the tests only read."""
    root = tmp_path_factory.mktemp("place")
    for name, kind, seed in (("big", "gpt2", 0), ("small", "gpt2", 1), ("judge", "bert", 0), ("pupil", "bert", 1)):
        tiny.write(kind, root / name, seed)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(root / "judge" / file, root / "pupil" / file)
    pairs = [{"prompt": f"how much is {i} plus {i % 7} ?", "completion": " " + SAID[i % 5]} for i in range(24)]
    jsonl(root / "pairs.jsonl", pairs)
    jsonl(root / "prompts.jsonl", [{"prompt": row["prompt"]} for row in pairs])
    jsonl(root / "more.jsonl", [{"prompt": f"the dog and {i} ?", "completion": " the cat"} for i in range(6)])
    labelled = [{"text": f"the {w} sat on the mat {i}", "label": f"LABEL_{i % 3}"} for i, w in enumerate(SAID * 5)]
    jsonl(root / "labelled.jsonl", labelled)
    return root


def kd(place: Path, out: Path, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "teacher": str(place / "big"), "student": str(place / "small"), "data": str(place / "pairs.jsonl"),
        "steps": 3, "batch_size": 4, "set": {"student.optimizer.lr": 1e-2},
    }  # fmt: skip
    return distill("kd", out=out, **given | changes)


def metrics(run: Path, stage: str = "distill") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == stage]


def test_a_finished_run_leaves_a_student_that_bare_transformers_opens(place: Path, tmp_path: Path) -> None:
    out = kd(place, tmp_path / "run", steps=12)
    held = json.loads((out / "run.json").read_text())
    assert held["status"] == "done" and held["key"] == "kd" and held["seed"] == 0
    assert held["players"] == {"teacher": str(place / "big"), "student": str(place / "small")}
    assert held["versions"]["transformers"] == transformers.__version__
    assert (out / "report.html").exists() and (out / "student" / "README.md").exists()
    losses = [row["student/loss"] for row in metrics(out)]
    assert len(losses) == 12 and losses[-1] < losses[0]
    bare = transformers.AutoModelForCausalLM.from_pretrained(out / "student").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "student")
    coded = tokenizer("the cat sat on", return_tensors="pt")
    net = open_player(out / "student").eval()
    with torch.no_grad():
        ours = net({"tokens": coded["input_ids"]}, frozenset({"logits"}))["logits"]
        theirs = bare(**coded).logits
    torch.testing.assert_close(ours, theirs[..., : ours.shape[-1]], atol=1e-5, rtol=1e-5)


def test_the_students_before_and_after_are_the_ones_examined(place: Path, tmp_path: Path) -> None:
    out = kd(place, tmp_path / "run", eval=str(place / "more.jsonl"), steps=12)
    exam = Examination.load(out)
    assert list(exam.inputs) == [f"the dog and {i} ?" for i in range(6)]
    # the loss on the reference of the student as it was, from the directory it came from
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "small").eval()
    saved = transformers.AutoModelForCausalLM.from_pretrained(out / "student").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "small")
    vocab, found = len(tokenizer), {"before": [], "after": []}  # type: ignore[var-annotated]
    for i in range(6):
        prompt = tokenizer(f"the dog and {i} ?")["input_ids"]
        answer = [*tokenizer(" the cat")["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([prompt + answer])
        for who, net in (("before", model), ("after", saved)):
            with torch.no_grad():
                logp = net(ids).logits[0, len(prompt) - 1 : -1, :vocab].log_softmax(-1)
            found[who].append(float(-logp.gather(1, torch.tensor(answer)[:, None]).mean()))
    loss = next(q for q in exam.qualities if q.name.startswith("loss on the reference"))
    for who, values in found.items():
        assert loss.values[who].value == pytest.approx(np.mean(values), abs=1e-4)
    kl = next(q for q in exam.qualities if q.name.startswith("KL"))
    assert kl.values["after"].value < kl.values["before"].value


def test_the_teacher_is_left_as_it_was(place: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in (place / "big").iterdir()}
    kd(place, tmp_path / "run")
    assert {p.name: p.read_bytes() for p in (place / "big").iterdir()} == before


def test_a_dry_run_writes_nothing(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kd(place, tmp_path / "run", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert "dry run: one step of each stage works" in " ".join(capsys.readouterr().err.split())


def test_prompts_are_enough_where_the_teacher_answers(place: Path, tmp_path: Path) -> None:
    out = distill(
        "seqkd", teacher=str(place / "big"), student=str(place / "small"), data=str(place / "prompts.jsonl"),
        out=tmp_path / "run", steps=2, batch_size=4, set={"ask.rows.max_new_tokens": 5},
    )  # fmt: skip
    exam = Examination.load(out)
    assert "the teacher's own greedy answers are the reference" in exam.notes[0]
    assert list(exam.expected) == list(exam.outputs["teacher"])
    assert sorted(p.name for p in (out / "journal" / "ask").iterdir()) == ["000000.safetensors"]


def test_lora_students_are_saved_merged_and_differ_from_their_base_by_low_rank(place: Path, tmp_path: Path) -> None:
    out = kd(place, tmp_path / "run", student=f"lora:rank=2:{place / 'small'}")
    base, merged = (load_file(folder / "model.safetensors") for folder in (place / "small", out / "student"))
    assert base.keys() == merged.keys() and (out / "student" / "adapter" / "adapter_config.json").exists()
    ranks = {k: int(torch.linalg.matrix_rank((merged[k] - base[k]).double(), rtol=1e-3)) for k in base
             if base[k].ndim == 2 and not torch.equal(base[k], merged[k])}  # fmt: skip
    assert ranks and set(ranks.values()) <= {1, 2}
    assert all(torch.equal(base[k], merged[k]) for k in base if k not in ranks)
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "student")
    assert type(model).__name__ == "GPT2LMHeadModel"


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """Accelerate fixes the precision of a process at its first use."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_run_in_bfloat16_keeps_its_weights_in_float32(place: Path, tmp_path: Path) -> None:
    out = kd(place, tmp_path / "run", precision="bf16", steps=4)
    losses = [row["student/loss"] for row in metrics(out)]
    weights = load_file(out / "student" / "model.safetensors")
    assert all(np.isfinite(losses)) and {w.dtype for w in weights.values()} == {torch.float32}
    AcceleratorState._reset_state(reset_partial_state=True)
    exact = kd(place, tmp_path / "exact", steps=4)
    reference = [row["student/loss"] for row in metrics(exact)]
    # bfloat16 has 8 bits: near, but not the same
    assert losses != reference and np.allclose(losses, reference, rtol=0.05)


def test_precisions_that_need_loss_scaling_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="precision must be 'no' or 'bf16', got 'fp16'"):
        kd(place, tmp_path / "run", precision="fp16")


def test_an_interrupted_run_ends_as_the_straight_one_to_the_bit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = kd(place, tmp_path / "straight", steps=6)
    from limbeck.processes import Interrupt

    calls = {"n": 0}

    def stop(self: Interrupt) -> bool:
        calls["n"] += 1
        return calls["n"] == 3

    monkeypatch.setattr(Interrupt, "asked", property(stop))
    with pytest.raises(KeyboardInterrupt, match="stopped in stage distill after step 3"):
        kd(place, tmp_path / "broken", steps=6)
    assert json.loads((tmp_path / "broken" / "run.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "broken" / "student").exists()
    with pytest.raises(RunConflict, match="continue it with --resume"):
        kd(place, tmp_path / "broken", steps=6)
    with pytest.raises(RunConflict, match="holds another run: its resolved differs"):
        kd(place, tmp_path / "broken", steps=7, resume=True)
    resumed = kd(place, tmp_path / "broken", steps=6, resume=True)
    one, two = (load_file(run / "student" / "model.safetensors") for run in (straight, resumed))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert [row["student/loss"] for row in metrics(straight)] == [row["student/loss"] for row in metrics(resumed)]


def test_a_derived_player_may_be_given_after_all(place: Path, tmp_path: Path) -> None:
    recipe = limbeck.api.load("kd")
    from dataclasses import replace

    from limbeck.roles import copy_of

    derived = replace(recipe, players={**recipe.players, "teacher": copy_of("student")})
    specs = {"teacher": str(place / "big"), "student": str(place / "small")}
    job = limbeck.api._open(derived, specs, str(place / "pairs.jsonl"), None, 0)
    assert job.recipe.players["teacher"].given and set(job.nets) == {"teacher", "student"}
    left = limbeck.api._open(derived, {"student": specs["student"]}, str(place / "pairs.jsonl"), None, 0)
    assert left.recipe.players["teacher"] == copy_of("student") and set(left.nets) == {"student"}


def test_a_player_that_no_recipe_knows_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown player 'critic' in recipe kd, which is given"):
        kd(place, tmp_path / "run", players={"critic": str(place / "small")})


def test_rows_that_repeat_are_left_out_and_said(place: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice.jsonl"
    twice.write_text((place / "pairs.jsonl").read_text() * 2)
    job = limbeck.api._open(limbeck.api.load("kd"), {"teacher": str(place / "big"), "student": str(place / "small")},
                            str(twice), None, 0)  # fmt: skip
    assert "24 rows that repeat another were left out" in job.notes
    assert len(job.data["train"]) + len(job.data["test"]) == 24


def test_evaluations_while_learning_stop_a_run_that_gets_no_better(place: Path, tmp_path: Path) -> None:
    out = kd(place, tmp_path / "run", steps=20, eval_every=1, patience=2, set={"student.optimizer.lr": 0.0})
    rows = metrics(out)
    # the first evaluation is the best; two more are no better
    assert [("eval/nll" in row) for row in rows] == [True] * 3
    assert len({row["eval/nll"] for row in rows}) == 1


# -- classifiers, beds, embedders -------------------------------------------------------------------------------------


def test_a_text_classifier_is_distilled_and_judged_by_its_classes(place: Path, tmp_path: Path) -> None:
    out = distill(
        "vkd", teacher=str(place / "judge"), student=str(place / "pupil"), data=str(place / "labelled.jsonl"),
        eval=str(place / "labelled.jsonl"), out=tmp_path / "run", steps=3, batch_size=8, eval_every=2,
    )  # fmt: skip
    exam = Examination.load(out)
    assert [q.name for q in exam.qualities] == ["accuracy", "loss (nats)", "agreement with the teacher"]
    assert set(exam.expected) == {"LABEL_0", "LABEL_1", "LABEL_2"}
    bare = transformers.AutoModelForSequenceClassification.from_pretrained(out / "student").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "student")
    with torch.no_grad():
        logits = torch.cat([bare(**tokenizer(text, return_tensors="pt")).logits for text in exam.inputs])
    said = torch.tensor([int(label.removeprefix("LABEL_")) for label in exam.outputs["after"]])
    best = logits.amax(1)
    # alone and in a batch, rows differ by rounding: where two classes are as good, either is right
    torch.testing.assert_close(logits.gather(1, said[:, None])[:, 0], best, rtol=0, atol=1e-4)
    assert ((best[:, None] - logits) > 1e-4).any()
    assert {"eval/nll", "eval/accuracy"} <= metrics(out)[1].keys()


def test_a_plain_module_is_distilled_from_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = """
def {name}():
    torch.manual_seed({width})
    return nn.Sequential(nn.Linear(4, {width}), nn.ReLU(), nn.Linear({width}, 3))
"""
    nets = [made.format(name=name, width=width) for name, width in (("big", 16), ("small", 8))]
    (tmp_path / "own_nets_for_the_api.py").write_text("import torch\nfrom torch import nn\n" + "".join(nets))
    monkeypatch.syspath_prepend(tmp_path)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 4)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    out = distill(
        "vkd", teacher="own_nets_for_the_api:big", student="own_nets_for_the_api:small",
        data=str(tmp_path / "rows.npz"), out=tmp_path / "run", steps=4, batch_size=16,
    )  # fmt: skip
    saved = load_file(out / "student" / "model.safetensors")
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    net.load_state_dict(saved)
    exam = Examination.load(out)
    rows = [int(text.removeprefix("row ")) for text in exam.inputs]
    assert len(rows) == len(set(rows)) and exam.qualities[0].name == "accuracy"


def test_a_bed_gives_players_and_probes(tmp_path: Path) -> None:
    out = distill("vkd", data="digits_few", out=tmp_path / "run", steps=3, batch_size=50)
    held = json.loads((out / "run.json").read_text())
    assert held["players"] == {"teacher": "bed:digits_few", "student": "bed:digits_few"}
    exam = Examination.load(out)
    assert "accuracy" in [q.name for q in exam.qualities] and not exam.scores
    assert set(exam.qualities[0].values) == {"teacher", "before", "after"}


def test_rows_are_a_product_too(tmp_path: Path) -> None:
    out = distill("random-data", data="digits_few", out=tmp_path / "run", set={"choose.rows.per_class": 3})
    with np.load(out / "synthetic" / "rows.npz") as rows:
        assert len(rows["x"]) == len(rows["y"]) and set(np.unique(rows["y"])) == set(range(10))
        real = limbeck.api.load_bed("digits_few").data(0)["train"].columns["x"].numpy()  # type: ignore[attr-defined, union-attr]
        assert all(any(np.array_equal(x, r) for r in real) for x in rows["x"])


def test_an_embedder_is_examined_on_rated_pairs_only(place: Path, tmp_path: Path) -> None:
    bare = open_player(tiny.write("bert-bare", tmp_path / "bare"))
    from limbeck.adapters.sentence import Sentence
    from limbeck.adapters.store import save_player

    save_player(Sentence(bare.model, bare.tokenizer), tmp_path / "embedder")
    given = {"teacher": str(tmp_path / "embedder"), "student": str(tmp_path / "embedder")}
    with pytest.raises(BadData, match="examined on columns sentence1, sentence2 and score"):
        distill("embedding-mse", data=str(place / "labelled.jsonl"), eval=str(place / "more.jsonl"),
                out=tmp_path / "run", **given)  # fmt: skip


# -- other commands ---------------------------------------------------------------------------------------------------


def test_evidence_of_chosen_seeds_is_never_written() -> None:
    with pytest.raises(BadValue, match="seeds are not chosen"):
        verify(["vkd"], seed_offset=5, write=True)


def test_verify_passes_its_options_on_and_writes_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    written: list[Any] = []
    monkeypatch.setattr(limbeck.api.claims, "verify", lambda key, **o: asked.append((key, o)) or {"key": key})
    monkeypatch.setattr(limbeck.api.claims, "write_evidence", written.append)
    assert verify(["a", "b"], seeds=4, seed_offset=7) == [{"key": "a"}, {"key": "b"}] and written == []
    passed = [(key, o["seeds"], o["seed_offset"], o["retune"]) for key, o in asked]
    assert passed == [("a", 4, 7, False), ("b", 4, 7, False)]
    verify(["a"], write=True)
    assert written == [{"key": "a"}]


def test_compare_asks_for_recipes_and_beds_that_exist() -> None:
    with pytest.raises(UnknownName, match="unknown bed 'digit'; did you mean 'digits"):
        compare(["vkd"], bed="digit")
    with pytest.raises(UnknownName, match="unknown recipe 'vkdd'"):
        compare(["vkdd"], bed="digits_few")


def test_a_report_can_be_written_elsewhere(place: Path, tmp_path: Path) -> None:
    out = kd(place, tmp_path / "run")
    written = limbeck.api.report([out], tmp_path / "elsewhere.html")
    assert written == tmp_path / "elsewhere.html" and "<html" in written.read_text()
    assert written.with_suffix(".md").exists()
