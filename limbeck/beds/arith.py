"""Addition with the carries written out: every step and every answer can be checked.

A problem is a sum of numbers of `digits` digits, "347+585=". Its solution adds column by column from the right,
"7+5+0=12;4+8+1=13;3+5+1=9;>932": the digits of the column, the carry, their sum; then the answer. The digits of a
column stand in either order, by a fair coin wherever the column reads differently backwards: so the language has an
entropy, known exactly, and a teacher's distribution says more than one sample of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import limbeck.assets
from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed
from limbeck.beds._text import BOS, EOS, Alphabet, columns, tiny_llama
from limbeck.data import Table
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.probes.language import answer_accuracy, nll, step_accuracy, token_agreement, token_kl
from limbeck.rng import Rng, derive

__all__ = [
    "ALPHABET",
    "answer_right",
    "bed",
    "entropy",
    "problems",
    "question",
    "right_answer",
    "right_steps",
    "rows",
    "solution",
    "split_of",
    "splits",
    "steps_right",
    "student",
    "teacher",
    "warm_student",
]

ALPHABET = Alphabet("0123456789+=;>")
DIGITS, OPERANDS = 2, 2
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
ASSETS = Path(str(limbeck.assets.__file__)).parent


def problems(n: int, split: str, seed: int, *, digits: int = DIGITS, operands: int = OPERANDS) -> list[tuple[int, ...]]:
    """Draw different problems of one split; a sum and its reorderings are always in the same split.

    Args:
        n: how many.
        split: "train" (8 sums in 10), "valid" or "test" (one each).
        seed: what the draw belongs to.
        digits: digits of every operand, the first of which is not 0.
        operands: numbers in the sum.

    Returns:
        The operands of each problem.

    Raises:
        BadValue: more problems than three in four of the split.

    Example:
        >>> problems(2, "test", 0, digits=2)
        [(69, 21), (65, 95)]
    """
    low = 10 ** (digits - 1)
    most = int(0.75 * SHARES[split] * (9 * low) ** operands)
    if n > most:
        raise BadValue(f"{n} {split} problems of {operands} x {digits} digits are too many, at most {most} can be had")
    rng, found = Rng(("arith", seed, split, digits, operands), torch.arange(4 * n + 64)), dict[tuple[int, ...], None]()
    turn = 0
    while len(found) < n:
        drawn, turn = rng.fold(turn).integers("operands", 9 * low, operands) + low, turn + 1
        found |= dict.fromkeys(p for p in map(tuple, drawn.tolist()) if split_of(p) == split)
    return list(found)[:n]


def split_of(problem: Sequence[int]) -> str:
    """The split that a problem belongs to, whatever the seed.

    Example:
        >>> split_of((69, 21)), split_of((21, 69))
        ('test', 'test')
    """
    return {0: "test", 1: "valid"}.get(derive("arith", sorted(problem)) % 10, "train")


def question(problem: Sequence[int]) -> str:
    """Write a problem down.

    Example:
        >>> question((347, 585))
        '347+585='
    """
    return "+".join(map(str, problem)) + "="


def _column(problem: Sequence[int], at: int) -> list[int]:
    """The digits of one column, counted from the right."""
    return [number // 10**at % 10 for number in problem]


def _width(problem: Sequence[int]) -> int:
    return max(len(str(number)) for number in problem)


def solution(problem: Sequence[int], flips: Sequence[bool] = ()) -> str:
    """Write the solution of a problem, column by column from the right.

    Args:
        problem: the operands.
        flips: for each column, whether its digits are written from the last operand to the first.

    Example:
        >>> solution((347, 585), flips=(False, True, False))
        '7+5+0=12;8+4+1=13;3+5+1=9;>932'
    """
    text, carry = "", 0
    for at in range(_width(problem)):
        digits = _column(problem, at)
        shown = digits[::-1] if at < len(flips) and flips[at] else digits
        text += f"{'+'.join(map(str, shown))}+{carry}={sum(digits) + carry};"
        carry = (sum(digits) + carry) // 10
    return f"{text}>{sum(problem)}"


def entropy(problem: Sequence[int]) -> float:
    """The exact entropy of the solutions of a problem, in nats: one coin for every column that is no palindrome.

    Example:
        >>> round(entropy((347, 585)) / math.log(2), 6), entropy((22, 22))
        (3.0, 0.0)
    """
    columns_ = [_column(problem, at) for at in range(_width(problem))]
    return math.log(2) * sum(c != c[::-1] for c in columns_)


def steps_right(asked: str, completion: str) -> list[bool]:
    """Check a solution step by step, each against the question and what the solution itself wrote before.

    A column is right if it adds the digits of that column, in any order, and the carry of the step before, and its sum
    is right; the answer is right if its digits are those of the written sums. If all steps are right, so is the answer.

    Args:
        asked: the question, "347+585=".
        completion: the solution as text.

    Returns:
        One mark for each column that the question has, and one for the answer; missing steps are wrong.

    Example:
        >>> steps_right("47+85=", "7+5+0=12;4+8+0=12;>122")
        [True, False, True]
    """
    problem = [int(number) for number in asked.rstrip("=").split("+")]
    *written, last = completion.split(";")
    marks, carry, digits = [], 0, ""
    for at in range(_width(problem)):
        step = written[at] if at < len(written) else ""
        found = re.fullmatch(r"((?:\d\+)+)(\d)=(\d{1,3})", step)
        numbers = [int(d) for d in found[1].split("+")[:-1]] if found else []
        total = int(found[3]) if found else -1
        adds = found is not None and int(found[2]) == carry and total == sum(numbers) + carry
        marks.append(adds and sorted(numbers) == sorted(_column(problem, at)))
        carry, digits = total // 10, str(total % 10) + digits
    whole = f">{carry or ''}{digits}"
    return [*marks, len(written) == len(marks) and last == whole]


def answer_right(asked: str, completion: str) -> bool:
    """Check the answer alone: what follows the only ">".

    Example:
        >>> answer_right("47+85=", "7+5+0=12;>132"), answer_right("47+85=", ">133")
        (True, False)
    """
    _, mark, answer = completion.partition(">")
    return mark == ">" and answer == str(sum(map(int, asked.rstrip("=").split("+"))))


def rows(found: Sequence[Sequence[int]], seed: int) -> Table:
    """Make rows of problems, each with one solution drawn by fair coins.

    Args:
        found: the problems.
        seed: what the coins belong to.

    Returns:
        The columns of language data, with the texts `question` and `answer`.
    """
    flips = Rng(("arith", seed), torch.arange(len(found))).integers("flips", 2, max(map(_width, found))).bool()
    asked = [question(p) for p in found]
    prompts = [[BOS, *ALPHABET.encode(q)] for q in asked]
    solved = [[*ALPHABET.encode(solution(p, f)), EOS] for p, f in zip(found, flips.tolist(), strict=True)]
    return Table({**columns(prompts, solved), "question": asked, "answer": [str(sum(p)) for p in found]})


def splits(seed: int, *, digits: int = DIGITS, operands: int = OPERANDS, train: int = 4096) -> dict[str, Table]:
    """Draw the splits, disjoint as problems.

    Args:
        seed: what the draw belongs to.
        digits: digits of every operand: the difficulty.
        operands: numbers in every sum.
        train: rows of "train"; "valid" and "test" have an eighth of them each.

    Raises:
        BadValue: more problems than three in four of a split.
    """
    sizes = {"train": train, "valid": train // 8, "test": train // 8}
    return {s: rows(problems(n, s, seed, digits=digits, operands=operands), seed) for s, n in sizes.items()}


@part
def right_answer(completion: str, row: Mapping[str, Any]) -> float:
    """Mark a completion 1 if its answer is right, whatever its steps: a verifier for `answer_accuracy` and rewards.

    [the number after ">" is the sum]

    Raises:
        KeyError: the row has no column `question`.

    Example:
        >>> right_answer.fn(">132", {"question": "47+85="})
        1.0
    """
    return float(answer_right(row["question"], completion))


@part
def right_steps(completion: str, row: Mapping[str, Any]) -> float:
    """Mark a completion by the share of its steps that are right: a verifier for `step_accuracy` and rewards.

    (right columns + [right answer]) / (columns + 1)

    Raises:
        KeyError: the row has no column `question`.

    Example:
        >>> right_steps.fn("7+5+0=12;4+8+1=13;>132", {"question": "47+85="})
        1.0
    """
    marks = steps_right(row["question"], completion)
    return sum(marks) / len(marks)


def load(folder: str) -> CausalLM:
    """Load a model shipped with the package, with its tokenizer.

    Args:
        folder: "arith-teacher" or "arith-warm-student".
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = ASSETS / folder
    return CausalLM(AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path))


def teacher(seed: int = 0) -> CausalLM:
    """Load the trained teacher, the same for every seed."""
    return load("arith-teacher")


def warm_student(seed: int = 0) -> CausalLM:
    """Load a student that is right now and then, the same for every seed: good enough to learn from its own answers."""
    return load("arith-warm-student")


def student(seed: int, *, width: int = 32, layers: int = 2) -> CausalLM:
    """Build an untrained student with an eighth of the teacher's parameters."""
    return CausalLM(tiny_llama(ALPHABET.size, seed, width=width, layers=layers), ALPHABET.tokenizer())


bed = Bed(
    key="arith",
    about="Addition digit by digit: every step and answer can be checked, and the entropy of the solutions is known.",
    players={"teacher": teacher, "student": student, "warm_student": warm_student},
    data=splits,
    probes={
        "answer_accuracy": answer_accuracy(verifier=right_answer(), max_new_tokens=32),
        "greedy_accuracy": answer_accuracy(verifier=right_answer(), temperature=0.0, max_new_tokens=32),
        "step_accuracy": step_accuracy(verifier=right_steps(), max_new_tokens=32),
        "nll": nll(),
        "token_kl": token_kl(),
        "token_agreement": token_agreement(),
    },
)
