"""Addition with the carries written out, by an expert who always writes the digits of a column in the given order."""

from __future__ import annotations

from dataclasses import replace

from limbeck.beds import arith
from limbeck.beds._text import BOS, EOS, columns
from limbeck.data import Table

__all__ = ["bed", "rows", "splits"]


def rows(found: list[tuple[int, ...]]) -> Table:
    """Make rows of problems, each with the one solution that has every column in order.

    Returns:
        The columns of language data, with the texts `question` and `answer`.
    """
    asked = [arith.question(p) for p in found]
    prompts = [[BOS, *arith.ALPHABET.encode(q)] for q in asked]
    solved = [[*arith.ALPHABET.encode(arith.solution(p)), EOS] for p in found]
    return Table({**columns(prompts, solved), "question": asked, "answer": [str(sum(p)) for p in found]})


def splits(seed: int, *, train: int = 512) -> dict[str, Table]:
    """Draw the splits, disjoint as problems.

    Args:
        seed: what the draw belongs to.
        train: rows of "train"; "valid" and "test" have 512 each.
    """
    sizes = {"train": train, "valid": 512, "test": 512}
    return {split: rows(arith.problems(n, split, seed)) for split, n in sizes.items()}


bed = replace(
    arith.bed,
    key="arith_ordered",
    about="Addition by an expert of one style, for players who know that the digits of a column stand in either order.",
    data=splits,
)
