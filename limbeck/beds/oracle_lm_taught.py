"""The language that can be enumerated, with a teacher that has yet to learn it: it will never be exact.

Data and oracle are those of `oracle_lm`; the teacher is an untrained Llama, the student one of the same size.
"""

from __future__ import annotations

from dataclasses import replace

from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import oracle_lm
from limbeck.beds._text import tiny_llama

__all__ = ["bed", "student", "teacher"]


def teacher(seed: int, *, width: int = 32) -> CausalLM:
    """Build an untrained Llama of one block."""
    return CausalLM(tiny_llama(oracle_lm.V, seed + 1, width=width, layers=1, ends=False))


def student(seed: int, *, width: int = 32) -> CausalLM:
    """Build an untrained Llama of one block and other first weights than the teacher's."""
    return CausalLM(tiny_llama(oracle_lm.V, seed, width=width, layers=1, ends=False))


bed = replace(
    oracle_lm.bed,
    key="oracle_lm_taught",
    about="The language of oracle_lm, where the teacher has yet to learn: what it gets wrong is known exactly.",
    players={"oracle": oracle_lm.oracle, "teacher": teacher, "student": student},
)
