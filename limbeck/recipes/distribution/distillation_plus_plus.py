"""Distillation++: while a few-step student samples, its teacher corrects the first of its predictions.

Distillation ends with training as a rule; here the teacher stays for one more evaluation, where the student's errors
are decided. Nothing is learned.
"""

from __future__ import annotations

from limbeck.parts.steered import sampled_rows, steered
from limbeck.recipe import Make, Recipe
from limbeck.roles import frozen

recipe = Recipe(
    key="distillation-plus-plus", title="Inference-Time Diffusion Model Distillation", paper="arXiv:2412.08871",
    family="distribution", kind="sampler", learns="nothing", teacher="white-box", product="drawn",
    players={"student": frozen(), "teacher": frozen()},
    stages=(Make("draw", sampled_rows(sampler=steered()), into="drawn", data="test"),),
    deviates=(
        "the share of the teacher is one number; the levels at which it is asked are the student's own next ones",
        "the student noises its prediction anew; samplers that keep the noise are not steered here",
        "the teacher is asked as it is: a teacher with guidance is given as a guided teacher",
    ),
)  # fmt: skip
