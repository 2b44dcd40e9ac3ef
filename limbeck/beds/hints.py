"""Chains of operations with a hint behind the question: a player that knows more when it is told more.

A problem is that of `chain`, "3+4*2-5="; a solution writes the running values and a mark before the last, "73>9". The
given answers are written as textbooks do, the answer first and then the way back to it, ">937": who imitates them has
to answer before having computed. Behind a question a hint may stand, "3+4*2-5=?>937=". The base player was trained to
slip at a known rate in every step, but not in the steps that a hint tells:

    ">937", ">93", ">9"   the textbook's answer, its last steps, the result alone; one in ten has a wrong value
    "73>9"                a right solution: it tells all steps
    "78>1!", "73>9."      an own attempt and whether it was wrong: after "!" half as many slips, after "." none
    "*"                   an operation to be careful with: the steps of that operation are told
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import limbeck.assets
from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed, chain
from limbeck.beds._text import BOS, EOS, Alphabet, columns, tiny_llama
from limbeck.beds.chain import SIGNS, VALUES, Problem, problems, question, values
from limbeck.data import Table
from limbeck.part import part
from limbeck.probes.language import answer_accuracy

__all__ = [
    "ALPHABET",
    "HINT",
    "SLIPS",
    "base",
    "bed",
    "reference",
    "right_answer",
    "rows",
    "solution",
    "splits",
    "steps_right",
    "student",
]

SLIPS = 0.18  # a step that nothing tells is wrong so often
HINT = "?{told}="  # how a hint stands behind a question
ALPHABET = Alphabet(VALUES + SIGNS + "=?>!.")
FOLDER = Path(str(limbeck.assets.__file__)).parent / "hints-base"


def solution(problem: Problem, slips: Sequence[int] = ()) -> str:
    """Write a solution as the base player does: running values, a mark, the answer.

    Args:
        problem: the problem (see `limbeck.beds.chain`).
        slips: what is added to the result of each step by mistake; later steps go on from it.

    Example:
        >>> solution((3, 0, 4, 2, 2, 1, 5))
        '73>9'
    """
    *before, last = (VALUES[v] for v in values(problem, slips))
    return f"{''.join(before)}>{last}"


def reference(problem: Problem, told: int = 0) -> str:
    """Write a solution as a textbook does: the answer first, then the way back to it.

    Args:
        problem: the problem.
        told: the number of values that are written, the last first; 0 for all.

    Example:
        >>> reference((3, 0, 4, 2, 2, 1, 5)), reference((3, 0, 4, 2, 2, 1, 5), told=1)
        ('>937', '>9')
    """
    return ">" + "".join(VALUES[v] for v in values(problem)[::-1][: told or None])


def steps_right(asked: str, completion: str) -> list[bool]:
    """Check every step of a solution in the base player's style, given the value written before it.

    Args:
        asked: the question.
        completion: a solution, right or wrong.

    Returns:
        One mark for each step that the question has; missing steps, and all of a text in another style, are wrong.

    Example:
        >>> steps_right("3+4*2-5=", "85>9"), steps_right("3+4*2-5=", ">937")
        ([False, True, False], [False, False, False])
    """
    before, mark, last = completion.rpartition(">")
    written = before + last if mark and len(last) == 1 and len(before) == len(asked) // 2 - 2 else "?"
    return chain.steps_right(asked, written)


@part
def right_answer(completion: str, row: Mapping[str, Any]) -> float:
    """Mark a completion 1 if the value behind its only ">" is right, in whatever style.

    Example:
        >>> [right_answer.fn(said, {"answer": "9"}) for said in ("73>9", ">937", "73>5", "739")]
        [1.0, 1.0, 0.0, 0.0]
    """
    found = re.fullmatch(f"[{VALUES}]*>([{VALUES}])[{VALUES}]*", completion)
    return float(found is not None and found[1] == row["answer"])


def rows(found: Sequence[Problem]) -> Table:
    """Make rows of problems with the textbook's answers.

    Returns:
        The columns of language data, with the texts `question`, `answer`, the last value, and `solution`, a right one
        in the base player's style.
    """
    asked = [question(p) for p in found]
    prompts = [[BOS, *ALPHABET.encode(q)] for q in asked]
    table = columns(prompts, [[*ALPHABET.encode(reference(p)), EOS] for p in found])
    solved = [solution(p) for p in found]
    return Table({**table, "question": asked, "answer": [s[-1] for s in solved], "solution": solved})


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
    """Load the base player, the same for every seed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return CausalLM(AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER))


def student(seed: int, *, width: int = 48, layers: int = 2) -> CausalLM:
    """Build an untrained student of the base player's size."""
    return CausalLM(tiny_llama(ALPHABET.size, seed, width=width, layers=layers), ALPHABET.tokenizer())


bed = Bed(
    key="hints",
    about="Chains of operations modulo 11; the base player slips at a known rate, except where a hint tells it more.",
    players={"base": base, "student": student},
    data=splits,
    probes={"answer_accuracy": answer_accuracy(verifier=right_answer(), max_new_tokens=8, limit=0)},
)
