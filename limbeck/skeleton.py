"""The file that `limbeck new` writes: a recipe that runs, to be changed line by line."""

from __future__ import annotations

import re
from pathlib import Path

from limbeck.errors import BadValue, RunConflict

__all__ = ["write"]

TEMPLATE = '''"""KEY: one sentence on what is new."""

from __future__ import annotations

from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import part, terms
from limbeck.parts.classification import cross_entropy
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.players import Players
from limbeck.probes.classification import accuracy
from limbeck.recipe import Arm, Claim, Learn, Phase, Recipe, Tune, more
from limbeck.roles import frozen, learning


@part
def matching(players: Players, batch: Batch, *, temperature: float = 2.0) -> Tensor:
    """Match the teacher's class probabilities.

    -sum_c softmax(teacher / T)_c log softmax(student / T)_c
    """
    teacher = players.teacher(batch, "logits").div(temperature).softmax(-1)
    return -(teacher * players.student(batch, "logits").div(temperature).log_softmax(-1)).sum(-1)


# 1. Put your idea into `matching`, or take parts from limbeck.parts; `limbeck show FILE` prints every setting.
# 2. Say what it beats, on which bed, and what is lost without it; `limbeck verify FILE` finds out whether that is so.
RATES = {"student.optimizer.lr.start": (3e-3, 1e-2)}

recipe = Recipe(
    key="KEY",
    title="The title of the paper",
    paper="arXiv:0000.00000",
    family="classic",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={"student": learning(adamw(lr=cosine(start=1e-3))), "teacher": frozen()},
    stages=(
        Learn(
            "distill",
            (Phase("student", ("student",), terms(soft=1.0 * matching(), hard=0.1 * cross_entropy())),),
            steps=200,
            batch_size=32,
        ),
    ),
    claim=Claim(
        bed="digits_few",
        arms={"mine": Arm(), "alone": Arm("alone"), "without": Arm(set={"distill.student.loss.soft.weight": 0.0})},
        probes={"accuracy": accuracy()},
        says=(more("accuracy", "mine", "alone", by=0.005),),
        set={"distill.steps": 200, "distill.batch_size": 32},
        tune=Tune("accuracy", {"mine": RATES, "alone": RATES, "without": RATES}),
        control="without",
    ),
)
'''


def write(key: str, folder: Path) -> Path:
    """Write the file of a new recipe.

    Args:
        key: its key: lower-case words joined by `-`.
        folder: where to write it; the file is named after the key.

    Returns:
        The path of the file.

    Raises:
        BadValue: no key of that form, or no such folder.
        RunConflict: the file exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", key):
        raise BadValue(f"a key is lower-case words joined by '-', such as my-method, got {key!r}")
    if not folder.is_dir():
        raise BadValue(f"no folder {folder}")
    path = folder / f"{key.replace('-', '_')}.py"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.replace("KEY", key))
    except FileExistsError as error:
        raise RunConflict(f"{path} exists already") from error
    return path
