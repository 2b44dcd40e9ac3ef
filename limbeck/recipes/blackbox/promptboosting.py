"""PromptBoosting: ten queries a row, then a vote of prompts and verbalisers that never asks for a gradient.

The black box is asked once for every prompt and row, and everything is learned from its answers. The product is the
prompts, the words and their votes; with the same black box it answers on fresh texts at a query a prompt.
"""

from __future__ import annotations

from limbeck.parts.boosting import ask_prompts, boost, fit_alone, keep_best_learner, keep_best_prefix, voters
from limbeck.recipe import Make, Recipe, Solve
from limbeck.roles import built, frozen

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
)  # fmt: skip
