"""Chains of operations with a hint, and a base player that has learnt wrong facts.

All is as on `hints`, but untold steps are not wrong by chance: in eight of ten solutions that the player learnt from, a
product with an operand of 2 or more was wrong, and the same product always in the same way. So it is certain where it
is wrong, every fact has to be corrected by itself, and rewards are seldom good. Hints work as they do on `hints`: steps
that are told are right, and who has read that an attempt was wrong ("!") errs half as often.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import limbeck.assets
from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed, hints
from limbeck.beds.chain import SIGNS, Problem, values
from limbeck.beds.hints import right_answer, splits
from limbeck.probes.language import answer_accuracy

__all__ = ["MISLED", "base", "bed", "believed", "traps"]

MISLED = 0.8  # how often a product that nothing tells is wrong
FOLDER = Path(str(limbeck.assets.__file__)).parent / "hints-misled"


def traps(problem: Problem) -> list[bool]:
    """Say of each step whether the player is wrong about it.

    Example:
        >>> traps((3, 0, 4, 2, 2, 2, 1))
        [False, True, False]
    """
    steps = zip(problem[1::2], problem[2::2], strict=True)
    return [SIGNS[sign] == "*" and operand >= 2 for sign, operand in steps]


def believed(problem: Problem, falls: Sequence[bool]) -> str:
    """Write a solution as the player does who has learnt wrong facts.

    Args:
        problem: the problem.
        falls: for each step, whether it is answered by a wrong fact.

    Example:
        >>> believed((3, 0, 4, 2, 2), (False, False)), believed((3, 0, 4, 2, 2), (False, True))
        ('7>3', '7>5')
    """
    slips: list[int] = []
    for at, fall in enumerate(falls):
        before, operand = ([problem[0], *values(problem, [*slips, *[0] * (len(falls) - at)])])[at], problem[2 * at + 2]
        slips.append((1 + (3 * before + 5 * operand) % 10) if fall else 0)
    return hints.solution(problem, slips)


def base(seed: int = 0) -> CausalLM:
    """Load the base player, the same for every seed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return CausalLM(AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER))


bed = Bed(
    key="hints_misled",
    about="The chains of `hints`; the base player has learnt wrong products, and does better where it is told.",
    players={"base": base, "student": hints.student},
    data=splits,
    probes={"answer_accuracy": answer_accuracy(verifier=right_answer(), max_new_tokens=8, limit=0)},
)
