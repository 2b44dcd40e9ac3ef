"""Two ways of writing: a base player at home in one, and data of a task it knows badly in the other.

A problem is a chain modulo 10, "3-4+2=", evaluated from left to right, whose solution is every running value (9, 1);
or the reversal of digits, "r407=", whose solution is those digits (7, 0, 4). At home a solution is written in digits,
"91"; abroad with stops between them, "9.1". The base player knows chains of + and * and reversals ("old"),
was shown few chains with -, and learnt no writing but that of home; asked to ("?"), it writes an answer again at home,
whatever the answer says. "train", "valid" and "test" are chains with - whose answers come from abroad. A solution is
right in either writing.
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
from limbeck.probes.language import answer_accuracy, nll
from limbeck.rng import Rng, derive

__all__ = [
    "ALPHABET",
    "REQUEST",
    "abroad",
    "base",
    "bed",
    "chains",
    "home",
    "read",
    "reversals",
    "right_solution",
    "rows",
    "solve",
    "split_of",
    "splits",
    "student",
]

DIGITS, SIGNS, REQUEST = "0123456789", "+-*", "?"
ALPHABET = Alphabet(DIGITS + SIGNS + "=r." + REQUEST)
LEAST, MOST = 2, 4  # operations of a chain; a reversal has one digit more
SPLITS = ("test", "valid")  # a tenth of the problems each; all others are "train"
FOLDER = Path(str(limbeck.assets.__file__)).parent / "styles-base"
LAYERS, WIDTH = 6, 48


def chains(n: int, split: str, seed: int, *, signs: str = SIGNS, must: str = "") -> list[str]:
    """Draw different chains of one split.

    Args:
        n: how many.
        split: "train" (8 problems in 10), "valid" or "test" (one each).
        seed: what the draw belongs to.
        signs: the signs that occur.
        must: a sign that every chain has.

    Example:
        >>> all("-" in c for c in chains(5, "test", 0, must="-")), split_of(chains(1, "valid", 0)[0])
        (True, 'valid')
    """
    rng, found, turn = Rng(("styles", seed, split, signs, must), torch.arange(4 * n + 64)), dict[str, None](), 0
    while len(found) < n:
        drawn, turn = rng.fold(turn), turn + 1
        values, at = drawn.integers("values", 10, MOST + 1).tolist(), drawn.integers("signs", len(signs), MOST).tolist()
        lengths = (LEAST + drawn.integers("operations", MOST - LEAST + 1)).tolist()
        for v, s, k in zip(values, at, lengths, strict=True):
            asked = str(v[0]) + "".join(signs[i] + str(x) for i, x in zip(s[:k], v[1 : k + 1], strict=True)) + "="
            if must in asked and split_of(asked) == split:
                found[asked] = None
    return list(found)[:n]


def reversals(n: int, split: str, seed: int) -> list[str]:
    """Draw different reversals of one split.

    Example:
        >>> [len(q) for q in reversals(3, "test", 0)] >= [5, 5, 5]
        True
    """
    rng, found, turn = Rng(("reversals", seed, split), torch.arange(4 * n + 64)), dict[str, None](), 0
    while len(found) < n:
        drawn, turn = rng.fold(turn), turn + 1
        lengths = (LEAST + 1 + drawn.integers("length", MOST - LEAST + 1)).tolist()
        for v, k in zip(drawn.integers("values", 10, MOST + 1).tolist(), lengths, strict=True):
            asked = "r" + "".join(map(str, v[:k])) + "="
            if split_of(asked) == split:
                found[asked] = None
    return list(found)[:n]


def split_of(asked: str) -> str:
    """The split that a problem belongs to, whatever the seed."""
    return dict(enumerate(SPLITS)).get(derive("styles", asked) % 10, "train")


def solve(asked: str) -> list[int]:
    """The solution of a problem.

    Example:
        >>> solve("3-4+2="), solve("r407=")
        ([9, 1], [7, 0, 4])
    """
    if asked[0] == "r":
        return [int(d) for d in asked[-2:0:-1]]
    found, value = [], int(asked[0])
    for sign, operand in zip(asked[1:-1:2], map(int, asked[2::2]), strict=True):
        value = {"+": value + operand, "-": value - operand, "*": value * operand}[sign] % 10
        found.append(value)
    return found


def home(values: Sequence[int]) -> str:
    """Write a solution as it is written at home.

    Example:
        >>> home([9, 1])
        '91'
    """
    return "".join(map(str, values))


def abroad(values: Sequence[int]) -> str:
    """Write a solution as it is written abroad.

    Example:
        >>> abroad([9, 1])
        '9.1'
    """
    return ".".join(map(str, values))


def read(said: str) -> list[int]:
    """Read a solution, in either writing or in a mixture; only digits count.

    Example:
        >>> read("91"), read("9.1")
        ([9, 1], [9, 1])
    """
    return [int(c) for c in said if c in DIGITS]


@part
def right_solution(completion: str, row: Mapping[str, Any]) -> float:
    """Mark a completion 1 if every value is right, in whatever writing.

    Raises:
        KeyError: the row has no column `question`.

    Example:
        >>> right_solution.fn("9.1", {"question": "3-4+2="}), right_solution.fn("92", {"question": "3-4+2="})
        (1.0, 0.0)
    """
    return float(read(completion) == solve(row["question"]))


def rows(asked: Sequence[str], write: Any = home) -> Table:
    """Make rows of problems with their solutions.

    Args:
        asked: the problems.
        write: `home` or `abroad`.

    Returns:
        The columns of language data, with the texts `question` and `answer`.
    """
    said = [write(solve(q)) for q in asked]
    prompts = [[BOS, *ALPHABET.encode(q)] for q in asked]
    table = columns(prompts, [[*ALPHABET.encode(s), EOS] for s in said])
    return Table({**table, "question": list(asked), "answer": said})


def splits(seed: int, *, train: int = 512) -> dict[str, Table]:
    """Draw the splits, disjoint as problems.

    Args:
        seed: what the draw belongs to.
        train: rows of "train"; "valid", "test" and "old" have half as many each.
    """
    sizes = {"train": train, "valid": train // 2, "test": train // 2}
    made = {split: rows(chains(n, split, seed, must="-"), abroad) for split, n in sizes.items()}
    quarter = train // 4
    return {**made, "old": rows([*chains(quarter, "test", seed, signs="+*"), *reversals(quarter, "test", seed)])}


def base(seed: int = 0) -> CausalLM:
    """Load the base player, the same for every seed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(FOLDER).float()
    return CausalLM(model.eval(), AutoTokenizer.from_pretrained(FOLDER))


def student(seed: int, *, width: int = WIDTH, layers: int = LAYERS) -> CausalLM:
    """Build an untrained player of the base player's size."""
    return CausalLM(tiny_llama(ALPHABET.size, seed, width=width, layers=layers), ALPHABET.tokenizer())


bed = Bed(
    key="styles",
    about="Two writings of one language: a base player writes one of them, the data of a new task come in the other.",
    players={"base": base, "teacher": base, "student": base},
    data=splits,
    probes={"answer_accuracy": answer_accuracy(verifier=right_solution(), max_new_tokens=8), "nll": nll()},
)
