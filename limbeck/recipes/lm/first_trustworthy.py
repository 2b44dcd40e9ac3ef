"""FIRST: a student learns the few likeliest tokens of a teacher, once their probabilities mean what they say."""

from __future__ import annotations

from limbeck.parts.calibration import (
    constant,
    least_ece,
    remember_likeliest,
    renormalised_kl,
    smoothed,
    softened,
    tempered,
)
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.recipe import Learn, Make, Phase, Recipe, Solve
from limbeck.recipes.baselines.sft import warm_up
from limbeck.roles import built, cached, frozen, learning

ask = remember_likeliest(k=5)
loss = renormalised_kl().on(teacher="cache")

recipe = Recipe(
    key="first-trustworthy",
    title="FIRST: Teach A Reliable Large Language Model Through Efficient Trustworthy Distillation",
    paper="arXiv:2408.12168", family="lm", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=cosine(start=2e-5, warmup=0.03), weight_decay=0.0, eps=1e-6)),
        "teacher": frozen(), "cache": cached(), "calibration": built(constant()),
    },
    stages=(
        warm_up,
        Make("ask", ask, into="asked"), Make("ask_held_out", ask, into="asked_held_out", data="valid"),
        Solve("calibrate", least_ece(), learns=("calibration",), data="asked_held_out"),
        Learn("distill", (Phase("student", ("student",), loss, batch=tempered()),), epochs=3.0, data="asked"),
    ),
    variants={
        "label-smoothing": {"calibrate.steps": 0, "distill.student.batch": smoothed(d=0.1)},
        "prob-softmax": {"calibrate.step.recalibrate": softened(), "distill.student.batch": softened()},
        "uncalibrated": {"calibrate.steps": 0},
    },
    deviates=(
        "the teacher comes fine-tuned: its own training is no stage here",
        "the mean over tokens of all rows, where the code sums over each row; no 1e-6 is added before a sum is made 1",
        "prob-softmax takes the teacher's probabilities for logits, the code those of the student too",
        "no sixth outcome 'any other token': the code has it as an option, the paper does without",
    ),
)  # fmt: skip
