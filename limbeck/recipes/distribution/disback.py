"""DisBack: first record how the teacher turns into the field of the untrained student, then go that way back.

At its start the student's samples lie where the teacher knows little. While a critic learns their field, four marks are
set on its way from the teacher; the student then matches them one after the other, the latest first, and the teacher
last. Without the marks this is plain distribution matching.
"""

from __future__ import annotations

from limbeck.parts.distribution import distribution_matching, fake_denoising
from limbeck.parts.optimizer import adamw
from limbeck.parts.states import few_step, noise_states
from limbeck.recipe import Learn, Phase, Recipe, Repeat
from limbeck.roles import copy_of, frozen, learning

RATE = adamw(lr=1e-5)
FOLLOW = Phase("critic", ("critic",), fake_denoising(), noise_states())
TOWARDS = Phase("student", ("student",), distribution_matching().on(teacher="near"), noise_states())
MATCH = Phase("student", ("student",), distribution_matching(), noise_states())
# marks are pushed and popped: the latest is near
PUSH, POP = {"far": "middle", "middle": "near", "near": "critic"}, {"near": "middle", "middle": "far"}
BASE = {"record.times": 0, "last.steps": 0, "last.epochs": 0.0, "back.times": 0}

recipe = Recipe(
    key="disback",
    title="Distribution Backtracking Builds A Faster Convergence Trajectory for One-step Diffusion Distillation",
    paper="arXiv:2408.15991",
    family="distribution",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={
        "student": learning(RATE), "teacher": frozen(), "critic": copy_of("teacher", RATE),
        "near": copy_of("teacher"), "middle": copy_of("teacher"), "far": copy_of("teacher"),
    },
    stages=(
        Repeat("record", (Learn("degrade", (FOLLOW,), steps=10_000, batch_size=256),), times=3, carry=PUSH),
        Learn("last", (FOLLOW,), steps=10_000, batch_size=256),
        Repeat("back", (Learn("approach", (TOWARDS, FOLLOW), steps=20_000, batch_size=256),), times=3, carry=POP),
        Learn("distill", (MATCH, FOLLOW), steps=140_000, batch_size=256),
    ),
    sampler=few_step(),
    variants={"base": BASE},
    deviates=(
        "three marks before the critic's last state, at equal distances: the code writes one every hundred steps and "
        "goes back by one every thousand",
        "the base method is plain distribution matching with the normalisation of DMD; the public one is DMD2 on SDXL",
        "rates, steps and batch size are not those of the public code, which goes on from a distilled DMD2",
    ),
)  # fmt: skip
