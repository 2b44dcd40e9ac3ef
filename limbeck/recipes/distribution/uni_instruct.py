"""Uni-Instruct: any f-divergence to the teacher, by its expansion into Fisher divergences over the levels of noise.

The score identity loss of SiD is the case of the reverse Kullback-Leibler divergence. The others weigh by the ratio of
densities, which a discriminator on the critic's features estimates, so that modes may be covered.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.curvature import jeffreys, jensen_shannon, pearson, reverse_kl
from limbeck.parts.distribution import fake_denoising
from limbeck.parts.expanded import expanded_divergence
from limbeck.parts.gan import discriminator_head, gan_discriminator
from limbeck.parts.levels import EDM_LEVELS
from limbeck.parts.optimizer import adam, sgd
from limbeck.parts.ratio import mean_ratio, ratio_drift
from limbeck.parts.states import few_step, noise_states
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, copy_of, frozen, learning

ADAM = adam(lr=1e-5, betas=(0.0, 0.999))
CRITIC = terms(denoise=fake_denoising(levels=EDM_LEVELS), gan=gan_discriminator(), usual=ratio_drift())
C = "distill.student.loss.curvature"

recipe = Recipe(
    key="uni-instruct",
    title="Uni-Instruct: One-step Diffusion Model through Unified Diffusion Divergence Instruction",
    paper="arXiv:2505.20755", family="distribution", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(ADAM), "teacher": frozen(), "critic": copy_of("teacher", ADAM),
        "head": built(discriminator_head(), ADAM), "usual": built(mean_ratio(), sgd(lr=0.1)),
    },
    stages=(
        Learn(
            "distill",
            phases=(
                Phase("critic", ("critic", "head", "usual"), CRITIC, noise_states()),
                Phase("student", ("student",), expanded_divergence(), noise_states()),
            ),
            steps=1_170_000, batch_size=256,
        ),
    ),
    sampler=few_step(),
    variants={
        "rkl": {C: reverse_kl()}, "jeffreys": {C: jeffreys()}, "js": {C: jensen_shannon()}, "chi2": {C: pearson()},
    },
    deviates=(
        "the gradient of the expansion is written as one term of the difference of fields and one of the identity, "
        "derived and checked here; the paper splits it otherwise",
        "the ratio is held fixed, clipped, and divided by its running mean, as in f-distill",
        "levels and weight are those of SiD, whose code it builds on; there the reverse divergence has alpha = 1, "
        "Jeffreys weighs 0.4 forward and 0.6 reverse, and the discriminator teaches the student too, at 0.01",
        "the student learns from the first step, where the code waits for 100,000 samples of the critic",
    ),
)  # fmt: skip
