"""SCFM: a flow model becomes a few-step sampler by teaching itself, with no input for the size of a step.

Where two half steps lead, one step must lead too. A fast moving average of the student takes the half steps, so that
straight pieces grow as training goes on; a slow one keeps them from running away.
"""

from __future__ import annotations

from limbeck.parts.halved_steps import field_imitation, halved_states, shortcut
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import linear
from limbeck.recipe import Learn, Phase, Recipe, Repeat
from limbeck.roles import ema_of, frozen, learning

STATES = halved_states(longest=linear(start=0.05, end=0.5))
COPY = Phase("student", ("student",), field_imitation(), STATES)

recipe = Recipe(
    key="scfm",
    title="Shortcutting Pre-trained Flow Matching Diffusion Models is Almost Free Lunch",
    paper="arXiv:2510.17858",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="self",
    players={
        "student": learning(adamw(lr=1e-5)), "teacher": frozen(),
        "fast": ema_of("student", decay=0.9), "slow": ema_of("student", decay=0.999),
    },
    stages=(
        Repeat(
            "start", (Learn("copy", (COPY,), steps=10_000, batch_size=32),), times=0,
            carry={"fast": "student", "slow": "student"},
        ),
        Learn("distill", (Phase("student", ("student",), shortcut(hold=0.5), STATES),), steps=10_000, batch_size=32),
    ),
    deviates=(
        "that a fast and a slow average teach is the paper's; how they are mixed, the rates of both and how the step "
        "grows are reconstructed, for neither code nor figures are public",
        "a student that does not start as the teacher's copy first imitates its field, in the stage `start`",
        "the slow average samples in the paper, here the weights of the last step",
        "whole weights instead of a low-rank adapter, which is the student's own affair",
    ),
)  # fmt: skip
