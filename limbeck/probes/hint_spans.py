"""Oracle annotators of chains of operations: which step matters, and of what kind it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.beds.hints import steps_right
from limbeck.part import part
from limbeck.parts.spans import Annotation

__all__ = ["another_step", "step_that_matters"]


def _annotation(asked: str, step: int) -> Annotation:
    """The character that a step's value is written in: the last one stands behind a mark."""
    signs = asked[1:-1:2]
    at = step if step < len(signs) - 1 else len(signs)
    return [(at, at + 1)], signs[step]


def _step(completion: str, row: Mapping[str, Any]) -> int:
    """The first wrong step of a wrong solution, the first multiplication of a right one; -1 for another style."""
    good = steps_right(row["question"], completion)
    if row["reward"] < 1:
        return good.index(False) if any(good) or completion.count(">") == 1 else -1
    return max(0, row["question"][1:-1:2].find("*")) if all(good) else -1


@part
def step_that_matters(completion: str, row: Mapping[str, Any]) -> Annotation:
    """Mark the first wrong step of a wrong solution and the first multiplication of a right one; tell its operation.

    Example:
        >>> step_that_matters.fn("78>1", {"question": "3+4*2-5=", "reward": 0.0})
        ([(1, 2)], '*')
        >>> step_that_matters.fn("73>9", {"question": "3+4*2-5=", "reward": 1.0})
        ([(1, 2)], '*')
    """
    step = _step(completion, row)
    return _annotation(row["question"], step) if step >= 0 else ([], "")


@part
def another_step(completion: str, row: Mapping[str, Any]) -> Annotation:
    """Mark the step before the one that matters, or the last; tell the operation of the one that matters: a control.

    Example:
        >>> another_step.fn("78>1", {"question": "3+4*2-5=", "reward": 0.0})
        ([(0, 1)], '*')
    """
    step = _step(completion, row)
    if step < 0:
        return [], ""
    return _annotation(row["question"], step - 1)[0] if step else [], _annotation(row["question"], step)[1]
