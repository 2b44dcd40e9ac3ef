"""REDI: imitate the teacher's right answers, then unlearn its wrong ones, with less weight and no reference."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.preference import direct_preference, paired, reinforced_contrast
from limbeck.parts.rollout import rollout
from limbeck.parts.token import cross_entropy
from limbeck.parts.transcript import accepted, repeated
from limbeck.parts.triangle import triangle
from limbeck.recipe import Learn, Make, Phase, Recipe, Repeat
from limbeck.roles import copy_of, frozen, learning

said = (repeated(copies=4) >> rollout(temperature=0.6, max_new_tokens=512)).on(student="teacher")
imitated = (Phase("reference", ("reference",), cross_entropy().on(student="reference")),)

recipe = Recipe(
    key="redi", title="Harnessing Negative Signals: Reinforcement Distillation from Teacher Data for LLM Reasoning",
    paper="arXiv:2505.24850", family="lm", kind="method", learns="student weights", teacher="black-box",
    players={
        "student": learning(adamw(lr=triangle(peak=1e-6), weight_decay=1e-4)), "teacher": frozen(),
        "reference": copy_of("student", adamw(lr=triangle(peak=5e-5), weight_decay=1e-4)),
    },
    stages=(
        Repeat("asking", (Make("ask", rows=said, into="answers"),)),
        Make("right", rows=accepted(), into="positives", data="answers", chunk=0),
        Repeat(
            "first", (Learn("imitate", imitated, epochs=5.0, batch_size=128, data="positives"),),
            carry={"student": "reference"},
        ),
        Make("apart", rows=paired(), into="pairs", data="answers", chunk=0),
        Learn("contrast", (Phase("student", ("student",), reinforced_contrast(alpha=0.8)),), data="pairs"),
    ),
    variants={
        "imitation": {"contrast.student.loss.alpha": 0.0}, "symmetric": {"contrast.student.loss.alpha": 1.0},
        "dpo": {"contrast.student.loss": direct_preference(beta=0.1)},
        "given-answers": {"asking.times": 0, "right.data": "train", "apart.data": "train"},
    },
    deviates=(
        "the paper takes answers that were published; here the teacher is asked, or the variant given-answers pairs "
        "rows of one prompt",
        "the first stage learns a player of its own, whose weights the student takes: a rate for each stage, and the "
        "reference that the variant dpo needs",
    ),
)  # fmt: skip
