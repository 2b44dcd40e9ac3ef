"""What `limbeck new` writes: a recipe that runs and a claim of it, to be changed line by line.

In a family of a checkout, `limbeck/recipes/<family>`, the claim has its own file; elsewhere the recipe's file holds it.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from limbeck.errors import BadValue, RunConflict

__all__ = ["write"]

RECIPE = Template('''"""$key: one sentence on what is new."""

from __future__ import annotations

from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import part, terms
from limbeck.parts.classification import cross_entropy
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.players import Players
$imports
from limbeck.roles import frozen, learning


# Put your idea into this part, or take parts from limbeck.parts; `limbeck show` prints every setting.
@part
def matching(players: Players, batch: Batch, *, temperature: float = 2.0) -> Tensor:
    """Match the teacher's class probabilities.

    -sum_c softmax(teacher / T)_c log softmax(student / T)_c
    """
    teacher = players.teacher(batch, "logits").div(temperature).softmax(-1)
    return -(teacher * players.student(batch, "logits").div(temperature).log_softmax(-1)).sum(-1)


${claim}recipe = Recipe(
    key="$key",
    title="The title of the paper",
    paper="arXiv:0000.00000",
    family="$family",
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
$argument)
''')
CLAIM = """# Say what it beats, on which bed, and what is lost without it; `limbeck verify` finds out whether it is so.
RATES = {"student.optimizer.lr.start": (3e-3, 1e-2)}

claim = Claim(
    bed="digits_few",
    arms={"mine": Arm(), "alone": Arm("alone"), "without": Arm(set={"distill.student.loss.soft.weight": 0.0})},
    probes={"accuracy": accuracy()},
    says=(more("accuracy", "mine", "alone", by=0.005),),
    set={"distill.steps": 200, "distill.batch_size": 32},
    tune=Tune("accuracy", {"mine": RATES, "alone": RATES, "without": RATES}),
    control="without",
)
"""
OWN_CLAIM = Template('''"""Claim: what $key is better at, and than what.

Bed: why it shows there.
"""

from __future__ import annotations

from limbeck.probes.classification import accuracy
from limbeck.recipe import Arm, Claim, Tune, more

$claim''')
TOGETHER = {
    "imports": "from limbeck.probes.classification import accuracy\n"
    "from limbeck.recipe import Arm, Claim, Learn, Phase, Recipe, Tune, more",
    "claim": CLAIM + "\n",
    "argument": "    claim=claim,\n",
    "family": "classic",
}
APART = {"imports": "from limbeck.recipe import Learn, Phase, Recipe", "claim": "", "argument": ""}


def write(key: str, folder: Path) -> list[Path]:
    """Write the file of a new recipe, and in a checkout that of its claim.

    Args:
        key: its key: lower-case words joined by `-`.
        folder: where to write it; the file is named after the key.

    Returns:
        The path of the recipe, then that of its claim if it is another.

    Raises:
        BadValue: no key of that form, or no such folder.
        RunConflict: a file of that name exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", key):
        raise BadValue(f"a key is lower-case words joined by '-', such as my-method, got {key!r}")
    if not folder.is_dir():
        raise BadValue(f"no folder {folder}")
    texts = _texts(key, folder)
    if taken := [path for path in texts if path.exists()]:
        raise RunConflict(f"{taken[0]} exists already")
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _texts(key: str, folder: Path) -> dict[Path, str]:
    """The files to write and what goes into them."""
    name, family = f"{key.replace('-', '_')}.py", folder.resolve()
    claims = family.parent.parent / "claims"
    if family.parts[-3:-1] != ("limbeck", "recipes") or not claims.is_dir():
        return {folder / name: RECIPE.substitute(TOGETHER, key=key)}
    return {
        folder / name: RECIPE.substitute(APART, key=key, family=family.name),
        claims / name: OWN_CLAIM.substitute(key=key, claim=CLAIM),
    }
