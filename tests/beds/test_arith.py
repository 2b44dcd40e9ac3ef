"""The arithmetic bed: its solutions, its verifiers against planted errors, and the models that are shipped."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.beds import arith
from limbeck.errors import BadData, BadValue, UnknownName

TEACHER = arith.ASSETS / "arith-teacher"
PROBLEMS = st.integers(1, 4).flatmap(
    lambda digits: st.lists(st.integers(10 ** (digits - 1), 10**digits - 1), min_size=2, max_size=4)
)


@settings(max_examples=200, deadline=None)
@given(PROBLEMS, st.lists(st.booleans(), max_size=4))
def test_every_solution_is_right_in_every_step(problem, flips) -> None:
    # the sum by Python, for any number of operands and digits
    asked, solved = arith.question(problem), arith.solution(problem, flips)
    assert arith.answer_right(asked, solved) and all(arith.steps_right(asked, solved))
    assert solved.endswith(f">{sum(problem)}") and eval(asked.rstrip("=")) == sum(problem)


@settings(max_examples=300, deadline=None)
@given(PROBLEMS, st.data())
def test_one_planted_digit_is_found(problem, data) -> None:
    # any digit of the solution changed to another: some step is wrong, and it is the step where it was planted or,
    # where a written sum was changed, that step (nothing before it)
    asked, solved = arith.question(problem), arith.solution(problem)
    at = data.draw(st.sampled_from([i for i, c in enumerate(solved) if c.isdigit()]))
    other = data.draw(st.sampled_from([d for d in "0123456789" if d != solved[at]]))
    marks = arith.steps_right(asked, solved[:at] + other + solved[at + 1 :])
    assert marks.index(False) == solved[:at].count(";")


@settings(max_examples=300, deadline=None)
@given(PROBLEMS, st.text("0123456789+=;>", max_size=60))
def test_right_steps_imply_a_right_answer(problem, said) -> None:
    # on noise, and on noise behind a good beginning
    asked = arith.question(problem)
    for text in (said, arith.solution(problem)[: len(said)] + said):
        assert len(arith.steps_right(asked, text)) == len(str(max(problem))) + 1
        if all(arith.steps_right(asked, text)):
            assert arith.answer_right(asked, text)


@pytest.mark.parametrize(
    ("said", "marks", "right"),
    [
        ("7+5+0=12;4+8+1=13;>132", [True, True, True], True),
        ("5+7+0=12;8+4+1=13;>132", [True, True, True], True),  # other order
        ("7+5+0=12;4+8+0=12;>122", [True, False, True], False),  # the carry is forgotten, the rest follows from it
        ("7+5+0=11;4+8+1=13;>131", [False, True, True], False),
        ("7+5+0=12;4+9+1=14;>142", [True, False, True], False),  # a digit that is not in the question
        ("7+5+0=12;>132", [True, False, False], True),  # a step left out
        ("7+5+0=12;4+8+1=13;>133", [True, True, False], False),
        ("7+5+0=12;4+8+1=13;>132>132", [True, True, False], False),
        ("7+5+0=12;4+8+1=13;3+3+0=6;>132", [True, True, False], True),  # a step too many
        ("", [False, False, False], False),
    ],
)
def test_verifiers_on_solutions_of_47_plus_85(said, marks, right) -> None:
    assert arith.steps_right("47+85=", said) == marks
    row = {"question": "47+85="}
    assert arith.right_answer()(said, row) == float(right)
    assert arith.right_steps()(said, row) == pytest.approx(sum(marks) / 3)


@pytest.mark.parametrize("digits", [2, 3])
def test_splits_are_disjoint_as_sums_whatever_the_seeds(digits) -> None:
    # 12+34 and 34+12 are the same sum
    asked: dict[str, set[tuple[str, ...]]] = {"train": set(), "valid": set(), "test": set()}
    for seed in (0, 1):
        for split, table in arith.splits(seed, digits=digits, train=2048).items():
            asked[split] |= {tuple(sorted(q.rstrip("=").split("+"))) for q in table.columns["question"]}
    assert not (asked["train"] & asked["test"] or asked["train"] & asked["valid"] or asked["valid"] & asked["test"])


def test_rows_decode_to_question_and_solution() -> None:
    columns = arith.splits(0, train=64)["train"].columns
    for b, asked in enumerate(columns["question"]):
        tokens, prompt, length = columns["tokens"][b], columns["prompt"][b], columns["length"][b]
        assert arith.ALPHABET.decode(tokens[:prompt].tolist()) == asked
        solved = arith.ALPHABET.decode(tokens[prompt:length].tolist())
        assert all(arith.steps_right(asked, solved)) and solved.endswith(">" + columns["answer"][b])
        # targets: the solution and the token that ends it
        assert columns["mask"][b].sum() == len(solved) + 1 and not columns["mask"][b, :prompt].any()


def test_coins_are_fair_and_the_entropy_is_theirs() -> None:
    made = arith.rows([(12, 34)] * 4000, 0).columns["tokens"]
    kinds, counts = made.unique(dim=0, return_counts=True)
    assert len(kinds) == 4 and arith.entropy((12, 34)) == pytest.approx(math.log(4))
    assert (counts / 4000 - 0.25).abs().max() < 0.03


def test_too_many_problems_and_odd_characters_are_refused() -> None:
    with pytest.raises(BadValue, match="too many"):
        arith.problems(5000, "train", 0, digits=2)
    with pytest.raises(UnknownName, match="character '\\*'"):
        arith.ALPHABET.encode("2*3=")
    with pytest.raises(BadData, match="once"):
        arith.Alphabet("aa")


def test_the_fast_tokenizer_agrees_with_the_alphabet() -> None:
    fast = arith.ALPHABET.tokenizer()
    for problem in arith.problems(20, "test", 0):
        text = arith.question(problem) + arith.solution(problem)
        assert fast(text)["input_ids"] == [1, *arith.ALPHABET.encode(text)]
        assert fast.decode(fast(text)["input_ids"], skip_special_tokens=True) == text
    turns = [{"role": "user", "content": "12+34="}, {"role": "assistant", "content": ">46"}]
    assert fast.apply_chat_template(turns, tokenize=False) == "<s>12+34=>46</s>"


def test_the_teacher_answers_in_the_bare_ecosystem() -> None:
    # a fresh process that knows nothing of this library
    script = (
        "import sys\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "path = sys.argv[1]\n"
        "lm, tok = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)\n"
        "out = lm.generate(**tok(['347+585=', '908+199='], return_tensors='pt'), max_new_tokens=48, do_sample=False)\n"
        "print(type(lm).__name__, *tok.batch_decode(out, skip_special_tokens=True))\n"
    )
    run = subprocess.run([sys.executable, "-c", script, str(TEACHER)], capture_output=True, text=True, check=True)
    name, first, second = run.stdout.split()
    assert name == "LlamaForCausalLM"
    assert first.endswith(">932") and second.endswith(">1107")


def test_shipped_directories_are_small_and_hold_no_pickle() -> None:
    for folder, most in ((TEACHER, 1_000_000), (arith.ASSETS / "arith-warm-student", 150_000)):
        files = [f for f in folder.iterdir() if f.is_file()]
        assert sum(f.stat().st_size for f in files) < most
        assert {f.suffix for f in files} <= {".json", ".safetensors", ".jinja"}
        assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("digits", [2, 3])
def test_the_teacher_is_right(digits) -> None:
    # by the generation of transformers: at least 95% sampled at temperature 1, and 98% greedy
    from limbeck.assets.build_arith import accuracy

    lm = arith.teacher().lm
    torch.manual_seed(0)
    assert accuracy(lm, digits, greedy=False, n=200) >= 0.95
    assert accuracy(lm, digits, greedy=True, n=200) >= 0.98


def test_the_student_is_an_eighth_of_the_teacher() -> None:
    sizes = [sum(p.numel() for p in net.parameters()) for net in (arith.teacher(), arith.student(0))]
    assert 8 <= sizes[0] / sizes[1] < 10
