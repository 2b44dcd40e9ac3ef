"""f-distill: distribution matching in any f-divergence, by weighing each sample with the ratio of the densities.

The reverse Kullback-Leibler divergence of DMD2 is the case of equal weights. The ratio comes for nothing from the
discriminator that DMD2 has anyway; divergences that cover modes weigh what the student is short of.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.curvature import forward_kl, jeffreys, neyman, reverse_kl, softened_reverse_kl, squared_hellinger
from limbeck.parts.distribution import fake_denoising
from limbeck.parts.gan import discriminator_head, gan_discriminator, gan_generator
from limbeck.parts.optimizer import adamw, sgd
from limbeck.parts.ratio import f_matching, mean_ratio, ratio_drift
from limbeck.parts.states import few_step, noise_states
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, copy_of, frozen, learning

RATE = adamw(lr=2e-6)
CRITIC = terms(denoise=fake_denoising(), gan=gan_discriminator(), usual=ratio_drift())
STUDENT = terms(match=f_matching(), gan=3e-3 * gan_generator())
H = "distill.student.loss.match.curvature"

recipe = Recipe(
    key="f-distill", title="One-step Diffusion Models with f-Divergence Distribution Matching",
    paper="arXiv:2502.15681", family="distribution", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(RATE), "teacher": frozen(), "critic": copy_of("teacher", RATE),
        "head": built(discriminator_head(), RATE), "usual": built(mean_ratio(), sgd(lr=0.1)),
    },
    stages=(
        Learn(
            "distill",
            phases=(
                Phase("critic", ("critic", "head", "usual"), CRITIC, noise_states(), times=4),
                Phase("student", ("student",), STUDENT, noise_states()),
            ),
            steps=120_000, batch_size=512, clip=10.0,
        ),
    ),
    sampler=few_step(),
    variants={
        "rkl": {H: reverse_kl()}, "kl": {H: forward_kl()}, "jeffreys": {H: jeffreys()},
        "hellinger": {H: squared_hellinger()}, "softened": {H: softened_reverse_kl()}, "neyman": {H: neyman()},
    },
    deviates=(
        "numbers are those of the public ImageNet-64 configuration, in which the student moves at every fifth update",
        "the weights are not divided by their mean over the batch, so that a row's loss does not depend on the others: "
        "the ratio is divided by a running mean near its level instead, whose true value is 1",
        "the discriminator reads the critic's features, as in DMD2, where the code lets it read the frozen teacher's",
    ),
)  # fmt: skip
