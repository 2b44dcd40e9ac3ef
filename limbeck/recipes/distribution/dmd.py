"""DMD: match the teacher's distribution, and hold on to pairs of noise and datum that its sampler joins.

The difference of two scores, of the data and of the student's own samples, moves samples to where the teacher has
more of them; alone it loses modes. Regression on pairs that were made beforehand keeps all of them in reach.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.anchor import anchored
from limbeck.parts.distribution import distribution_matching, fake_denoising
from limbeck.parts.optimizer import adamw
from limbeck.parts.pairs import sampled_pairs
from limbeck.parts.solver import heun, karras
from limbeck.parts.states import few_step, noise_states
from limbeck.parts.thinning import thinned
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import copy_of, frozen, learning

RATE = adamw(lr=2e-6)

recipe = Recipe(
    key="dmd", title="One-step Diffusion with Distribution Matching Distillation", paper="arXiv:2311.18828",
    family="distribution", kind="method", learns="student weights", teacher="white-box",
    players={"student": learning(RATE), "teacher": frozen(), "critic": copy_of("teacher", RATE)},
    stages=(
        Make("pairs", thinned() >> sampled_pairs(solver=heun(), times=karras(18)), into="pairs", chunk=1000),
        Learn(
            "distill",
            phases=(
                Phase(
                    "student", ("student",), batch=noise_states(),
                    loss=terms(match=distribution_matching(), regression=0.25 * anchored()),
                ),
                Phase("critic", ("critic",), fake_denoising(), noise_states()),
            ),
            steps=350_000, batch_size=336, data="pairs", clip=10.0,
        ),
    ),
    sampler=few_step(),
    deviates=(
        "pairs are held by the square in place of LPIPS: data need not be pictures",
        "levels are those of DMD2's public code, for DMD's was not published; its steps could not be checked",
        "a pair is made for every row of the data, unless `thinned` says otherwise",
        "the teacher is asked as it is: a teacher with guidance is given as a guided teacher",
    ),
)  # fmt: skip
