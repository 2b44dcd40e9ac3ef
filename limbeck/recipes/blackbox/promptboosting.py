"""PromptBoosting: ten queries a row, then a vote of prompts and verbalisers that never asks for a gradient.

The black box is asked once for every prompt and row, and everything is learned from its answers. The product is the
prompts, the words and their votes; with the same black box it answers on fresh texts at a query a prompt.
"""

from __future__ import annotations

from limbeck.beds.cloze import CLASSES, PROMPTS, VOCABULARY
from limbeck.parts.boosting import ask_prompts, boost, fit_alone, keep_best_learner, keep_best_prefix, readout, voters
from limbeck.probes.blackbox import excess_queries
from limbeck.probes.classification import accuracy
from limbeck.recipe import Arm, Claim, Make, Recipe, Solve, Tune, more, within
from limbeck.roles import built, frozen

BED = {"student.builder.prompts": PROMPTS, "student.builder.classes": CLASSES, "boost.step.top": 10, "boost.steps": 100}
READOUT = readout(prompts=PROMPTS, words=len(VOCABULARY), classes=CLASSES)
LOGISTIC = Arm(set={"student.builder": READOUT, "boost.steps": 1, "choose.steps": 0})
SINGLE = Arm(set={"boost.steps": 10, "choose.step": keep_best_learner()})
ALONE = {"boost.step": tuple(f"fit_alone(top={k})" for k in range(1, 11))}
GRID = {
    "boosted": {"boost.step.top": (2, 3, 5, 8, 10), "boost.step.lr": (0.5, 1.0)},
    "one prompt": {"student.builder.prompts": tuple((prompt,) for prompt in PROMPTS)}, "one learner": ALONE,
    "equal weights": ALONE, "logistic": {"boost.step": tuple(f"fit_logistic(strength=1e{k})" for k in range(-3, 7))},
}  # fmt: skip

recipe = Recipe(
    key="promptboosting", title="PromptBoosting: Black-Box Text Classification with Ten Forward Passes",
    paper="arXiv:2212.09257", family="blackbox", kind="method", learns="ensemble weights and verbalisers",
    teacher="black-box", players={"teacher": frozen(), "student": built(voters())},
    stages=(
        Make("ask", ask_prompts(), into="asked"),
        Make("ask_held_out", ask_prompts(), into="asked_held_out", data="valid"),
        Solve("boost", boost(), learns=("student",), steps=200, data="asked"),
        Solve("choose", keep_best_prefix(), learns=("student",), data="asked_held_out"),
    ),
    variants={
        "three-classes": {"student.builder.classes": 3, "boost.step.top": 10},
        "six-classes": {"student.builder.classes": 6, "boost.step.top": 5},
        "single": {"boost.step": fit_alone(), "boost.steps": 10, "choose.step": keep_best_learner()},
    },
    deviates=(
        "the pool is the public code's for film reviews; no sequence-to-sequence model writes one for the data",
        "a weighted error below half a row counts as half a row, where the code divides by zero",
    ),
    claim=Claim(
        bed="cloze", set=BED,
        arms={
            "boosted": Arm(), "one prompt": Arm(), "equal weights": Arm(), "one learner": SINGLE, "logistic": LOGISTIC,
        },
        probes={"excess": excess_queries(), "accuracy": accuracy()},
        says=(
            more("accuracy", "boosted", "one learner", by=0.05), more("accuracy", "boosted", "one prompt", by=0.02),
            within("excess", "boosted", 0.0),
        ),
        tune=Tune("accuracy", GRID, seeds=2),  # type: ignore[arg-type]
        seeds=6, control="equal weights",
    ),
)  # fmt: skip
