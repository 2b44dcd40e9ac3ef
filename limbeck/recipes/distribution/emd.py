"""EM distillation: minimise the forward Kullback-Leibler divergence by inferring which noise the teacher's data need.

A short Langevin chain moves latent and added noise towards the teacher's law, and the generator follows. One step that
leaves the latents alone is distribution matching; more of them reach modes that the generator does not cover.
"""

from __future__ import annotations

from limbeck.parts.distribution import fake_denoising
from limbeck.parts.langevin import displacement_matching, langevin_states
from limbeck.parts.optimizer import adam
from limbeck.parts.states import few_step, noise_states
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import copy_of, frozen, learning

ADAM = adam(lr=2e-6, betas=(0.0, 0.99))
CHAIN = "distill.student.batch"

recipe = Recipe(
    key="emd",
    title="EM Distillation for One-step Diffusion Models",
    paper="arXiv:2405.16852",
    family="distribution",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={"student": learning(ADAM), "teacher": frozen(), "critic": copy_of("teacher", ADAM)},
    stages=(
        Learn(
            "distill",
            phases=(
                Phase("critic", ("critic",), fake_denoising(), noise_states()),
                Phase("student", ("student",), displacement_matching(), langevin_states()),
            ),
            steps=300_000,
            batch_size=128,
        ),
    ),
    sampler=few_step(),
    variants={
        "four": {f"{CHAIN}.steps": 4},
        "matching": {f"{CHAIN}.steps": 1, f"{CHAIN}.latent_rate": 0.0},
        "noisy": {f"{CHAIN}.cancel": False},
    },
    deviates=(
        "levels and weight are those of DMD2, so that one step with fixed latents is its gradient",
        "the level stays the same over the chain",
    ),
)
