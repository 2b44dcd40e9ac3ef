"""Pairwise sample optimisation: tune a distilled few-step model by preferences over the steps of its own chain.

Finetuning with the denoising loss makes a few-step model a diffusion model again, whose few steps blur. Here a step is
a draw from a Gaussian with a known density, and only the model's own steps are learnt at.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.sample_preference import chain_preference, data_over_samples, preferred_chains, sample_preference
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import copy_of, frozen, learning

recipe = Recipe(
    key="pso",
    title="Tuning Timestep-Distilled Diffusion Model Using Pairwise Sample Optimization",
    paper="arXiv:2410.03190",
    family="distribution",
    kind="method",
    learns="student weights",
    teacher="self",
    players={
        "student": learning(adamw(lr=1e-5, weight_decay=1e-6)), "reference": copy_of("student"), "reward": frozen(),
    },
    stages=(
        Learn(
            "tune", phases=(Phase("student", ("student",), chain_preference(), preferred_chains()),),
            steps=20_000, batch_size=4, clip=1.0,
        ),
    ),
    variants={"offline": {"tune.student.loss": sample_preference(), "tune.student.batch": data_over_samples()}},
    deviates=(
        "all weights learn, where the code trains adapters of rank 16: a student with adapters is given as one",
        "one random step of a chain a row, where the code goes through all that are random, in random order",
        "pairs are used once and drawn anew, where the code draws 16 batches before it learns from them",
        "the offline loss compares means over coordinates at beta 50, as the online one does; the code weighs them by "
        "1 / sigma^2 at beta 200",
    ),
)  # fmt: skip
