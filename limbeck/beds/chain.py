"""Chains of operations modulo 11, answered in one turn or corrected in a second.

A problem is "3+4*2-5=", evaluated from left to right modulo 11; its solution is every running value, "739" ("a" stands
for 10), so each step and the answer can be checked. The number of operations, 2 to 5, is the difficulty. The base
player has learnt from solutions of which every step was wrong with a known probability, so it is right about half the
time; asked to correct itself ("?"), it was shown to repeat itself in 85% of cases and to try afresh in the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import limbeck.assets
from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed
from limbeck.beds._text import BOS, EOS, Alphabet, columns, tiny_llama
from limbeck.data import Table
from limbeck.part import part
from limbeck.probes.correction import broken, correction_gain, second_accuracy, two_turns
from limbeck.probes.language import answer_accuracy, nll, step_accuracy
from limbeck.rng import Rng, derive

__all__ = [
    "ALPHABET",
    "REQUEST",
    "base",
    "bed",
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
    "values",
]

MODULUS = 11
VALUES, SIGNS = "0123456789a", "+-*"
REQUEST = "?"
ALPHABET = Alphabet(VALUES + SIGNS + "=" + REQUEST)
SPLITS = ("test", "valid")  # a tenth of the problems each; all others are "train"
FOLDER = Path(str(limbeck.assets.__file__)).parent / "chain-base"

Problem = tuple[int, ...]  # value, sign, value, sign, value ...


def problems(n: int, split: str, seed: int, *, least: int = 2, most: int = 5) -> list[Problem]:
    """Draw different problems of one split.

    Args:
        n: how many.
        split: "train" (8 problems in 10), "valid" or "test" (one each).
        seed: what the draw belongs to.
        least: the fewest operations of a problem.
        most: the most.

    Returns:
        Values and the places of their signs in "+-*" by turns: (3, 0, 4) is "3+4=".

    Example:
        >>> [question(p) for p in problems(2, "test", 0)]
        ['1-8+7-0=', '2-7*2+7+5=']
    """
    rng, found, turn = Rng(("chain", seed, split, least, most), torch.arange(4 * n + 64)), dict[Problem, None](), 0
    while len(found) < n:
        drawn, turn = rng.fold(turn), turn + 1
        value, sign = drawn.integers("values", MODULUS, most + 1), drawn.integers("signs", len(SIGNS), most)
        lengths = (least + drawn.integers("operations", most - least + 1)).tolist()
        both = torch.stack((value[:, :-1], sign), 2).flatten(1)
        whole = torch.cat((both, value[:, -1:]), 1).tolist()
        cut = (tuple(row[: 2 * k + 1]) for row, k in zip(whole, lengths, strict=True))
        found |= dict.fromkeys(p for p in cut if split_of(p) == split)
    return list(found)[:n]


def split_of(problem: Sequence[int]) -> str:
    """The split that a problem belongs to, whatever the seed."""
    return dict(enumerate(SPLITS)).get(derive("chain", tuple(problem)) % 10, "train")


def question(problem: Sequence[int]) -> str:
    """Write a problem down.

    Example:
        >>> question((3, 0, 10, 2, 2))
        '3+a*2='
    """
    return "".join((VALUES, SIGNS)[i % 2][k] for i, k in enumerate(problem)) + "="


def _step(value: int, sign: int, operand: int) -> int:
    return (value + operand, value - operand, value * operand)[sign] % MODULUS


def values(problem: Sequence[int], slips: Sequence[int] = ()) -> list[int]:
    """The running values of a problem.

    Args:
        problem: the problem.
        slips: what is added to the result of each step by mistake; later steps go on from it.

    Example:
        >>> values((3, 0, 4, 2, 2)), values((3, 0, 4, 2, 2), slips=(1, 0))
        ([7, 3], [8, 5])
    """
    found, value = [], problem[0]
    for at in range(len(problem) // 2):
        value = (_step(value, *problem[2 * at + 1 : 2 * at + 3]) + (slips[at] if slips else 0)) % MODULUS
        found.append(value)
    return found


def solution(problem: Sequence[int], slips: Sequence[int] = ()) -> str:
    """Write the solution of a problem: its running values, the last of which is the answer.

    Example:
        >>> solution((3, 0, 4, 2, 2, 1, 5))
        '739'
    """
    return "".join(VALUES[v] for v in values(problem, slips))


def _read(asked: str) -> Problem:
    """The problem that a question writes down."""
    return tuple((VALUES, SIGNS)[i % 2].index(c) for i, c in enumerate(asked.rstrip("=")))


def steps_right(asked: str, completion: str) -> list[bool]:
    """Check every step of a completion, given the value written before it.

    Args:
        asked: the question.
        completion: a solution, right or wrong.

    Returns:
        One mark for each step that the question has; missing steps, and all of a text that is too long, are wrong.

    Example:
        >>> steps_right("3+4*2-5=", "859"), steps_right("3+4*2-5=", "7")
        ([False, True, False], [True, False, False])
    """
    problem = _read(asked)
    steps = range(len(problem) // 2)
    if len(completion) > len(steps) or set(completion) - set(VALUES):
        return [False for _ in steps]
    written = [VALUES.index(c) for c in completion]
    before = [problem[0], *written]
    return [i < len(written) and written[i] == _step(before[i], *problem[2 * i + 1 : 2 * i + 3]) for i in steps]


@part
def right_answer(completion: str, row: Mapping[str, Any]) -> float:
    """Mark a completion 1 if it has all running values and the last is right, whatever the others."""
    return float(len(completion) == len(row["question"]) // 2 - 1 and completion[-1:] == row["answer"])


@part
def right_steps(completion: str, row: Mapping[str, Any]) -> float:
    """Mark a completion by the share of its steps that are right."""
    found = steps_right(row["question"], completion)
    return sum(found) / len(found)


def rows(found: Sequence[Problem]) -> Table:
    """Make rows of problems with their right solutions.

    Returns:
        The columns of language data, with the texts `question` and `answer`, the last running value.
    """
    asked = [question(p) for p in found]
    prompts = [[BOS, *ALPHABET.encode(q)] for q in asked]
    solved = [solution(p) for p in found]
    table = columns(prompts, [[*ALPHABET.encode(s), EOS] for s in solved])
    return Table({**table, "question": asked, "answer": [s[-1] for s in solved]})


def splits(seed: int, *, least: int = 2, most: int = 5, train: int = 1024) -> dict[str, Table]:
    """Draw the splits, disjoint as problems.

    Args:
        seed: what the draw belongs to.
        least: the fewest operations of a problem.
        most: the most.
        train: rows of "train"; "valid" and "test" have half as many each.
    """
    sizes = {"train": train, "valid": train // 2, "test": train // 2}
    return {split: rows(problems(n, split, seed, least=least, most=most)) for split, n in sizes.items()}


def base(seed: int = 0) -> CausalLM:
    """Load the base player, the same for every seed: right half the time, and it mostly repeats itself when asked."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return CausalLM(AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER))


def student(seed: int, *, width: int = 48, layers: int = 2) -> CausalLM:
    """Build an untrained student of the base player's size."""
    return CausalLM(tiny_llama(ALPHABET.size, seed, width=width, layers=layers), ALPHABET.tokenizer())


TURNS = two_turns(REQUEST, max_new_tokens=6)

bed = Bed(
    key="chain",
    about="Chains of operations modulo 11, every step checked; the base player errs at a known rate, seldom corrects.",
    players={"base": base, "student": student},
    data=splits,
    probes={
        "first_accuracy": answer_accuracy(verifier=right_answer(), max_new_tokens=6),
        "step_accuracy": step_accuracy(verifier=right_steps(), max_new_tokens=6),
        "second_accuracy": second_accuracy(turns=TURNS, verifier=right_answer()),
        "correction_gain": correction_gain(turns=TURNS, verifier=right_answer()),
        "broken": broken(turns=TURNS, verifier=right_answer()),
        "nll": nll(),
    },
)
