"""SiD: match scores in the Fisher divergence, made estimable by the score projection identity; no data are read.

Where distribution matching moves samples along a difference of scores, this differentiates through the scores. The
naive estimate, which forgets that the critic follows the student, is biased, and is not added but taken away.
"""

from __future__ import annotations

from limbeck.parts.distribution import fake_denoising
from limbeck.parts.fisher import score_identity
from limbeck.parts.levels import EDM_LEVELS
from limbeck.parts.optimizer import adam
from limbeck.parts.states import few_step, noise_states
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import copy_of, frozen, learning

ADAM = adam(lr=1e-5, betas=(0.0, 0.999))

recipe = Recipe(
    key="sid",
    title="Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion Models for One-Step "
    "Generation",
    paper="arXiv:2404.04057",
    family="distribution",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={"student": learning(ADAM), "teacher": frozen(), "critic": copy_of("teacher", ADAM)},
    stages=(
        Learn(
            "distill",
            phases=(
                Phase("critic", ("critic",), fake_denoising(levels=EDM_LEVELS), noise_states()),
                Phase("student", ("student",), score_identity(), noise_states()),
            ),
            steps=1_950_000,
            batch_size=256,
        ),
    ),
    sampler=few_step(),
    variants={"plain": {"distill.student.loss.alpha": 0.5}, "one": {"distill.student.loss.alpha": 1.0}},
    deviates=(
        "steps are those of 500 million samples, as on CIFAR-10; the critic learns without dropout and augmentation",
        "the generator starts at pure noise, t = 1, where the code gives it noise of deviation 2.5 and that level",
        "the weights that sample are those of the last step, where the code keeps a moving average of them",
    ),
)
