"""Chains of operations with a hint, and a base player that believes something wrong.

All is as on `hints`, but untold steps are not wrong by chance: the player has learnt from solutions in which a product
with an operand of 2 or more was one too large, nine times in ten. So it is mostly wrong where it is most certain, its
best answer is no better than its others, and what a reward says is seldom good. Hints work as they do there: steps that
are told are right, and who has read that an attempt was wrong ("!") errs half as often.
"""

from __future__ import annotations

from pathlib import Path

import limbeck.assets
from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed, hints
from limbeck.beds.chain import SIGNS, Problem
from limbeck.beds.hints import right_answer, splits
from limbeck.probes.language import answer_accuracy

__all__ = ["MISLED", "base", "bed", "traps"]

MISLED = 0.9  # how often a product that nothing tells is one too large
FOLDER = Path(str(limbeck.assets.__file__)).parent / "hints-misled"


def traps(problem: Problem) -> list[bool]:
    """Say of each step whether the player is wrong about it.

    Example:
        >>> traps((3, 0, 4, 2, 2, 2, 1))
        [False, True, False]
    """
    steps = zip(problem[1::2], problem[2::2], strict=True)
    return [SIGNS[sign] == "*" and operand >= 2 for sign, operand in steps]


def base(seed: int = 0) -> CausalLM:
    """Load the base player, the same for every seed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return CausalLM(AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER))


bed = Bed(
    key="hints_misled",
    about="The chains of `hints`; the base player gets products wrong, always the same way, except where it is told.",
    players={"base": base, "student": hints.student},
    data=splits,
    probes={"answer_accuracy": answer_accuracy(verifier=right_answer(), max_new_tokens=8, limit=0)},
)
