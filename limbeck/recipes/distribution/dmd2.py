"""DMD2: match the teacher's distribution with a critic that is updated often and tells real from generated.

No pairs of noise and image are needed: a critic fast enough to follow the student keeps the gradient true, and a
discriminator on its features lets real data correct what the teacher has wrong. With several steps the student is
trained on the states of its own runs.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.distribution import distribution_matching, fake_denoising
from limbeck.parts.gan import discriminator_head, gan_discriminator, gan_generator
from limbeck.parts.optimizer import adamw
from limbeck.parts.states import backward_simulated, few_step
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, copy_of, frozen, learning

FOUR = backward_simulated(times=(1.0, 0.75, 0.5, 0.25))

recipe = Recipe(
    key="dmd2", title="Improved Distribution Matching Distillation for Fast Image Synthesis",
    paper="arXiv:2405.14867", family="distribution", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=2e-6)), "teacher": frozen(), "critic": copy_of("teacher", adamw(lr=2e-6)),
        "head": built(discriminator_head(), adamw(lr=2e-6)),
    },
    stages=(
        Learn(
            "distill",
            phases=(
                Phase(
                    "critic", learns=("critic", "head"), batch=backward_simulated(times=(1.0,)),
                    loss=terms(denoise=fake_denoising(), gan=1e-2 * gan_discriminator()), times=5,
                ),
                Phase(
                    "student", learns=("student",), batch=backward_simulated(times=(1.0,)),
                    loss=terms(match=distribution_matching(), gan=3e-3 * gan_generator()),
                ),
            ),
            steps=40_000, batch_size=280, clip=10.0,
        ),
    ),
    sampler=few_step(),
    variants={
        "four-step": {
            "distill.critic.batch": FOUR, "distill.student.batch": FOUR, "distill.student.loss.gan.weight": 5e-3,
            "student.optimizer.lr": 5e-7, "critic.optimizer.lr": 5e-7, "head.optimizer.lr": 5e-7,
            "sampler.times": (1.0, 0.75, 0.5, 0.25),
        },
    },
    deviates=(
        "a step is five updates of the critic and one of the student; the code counts 200,000 of the critic",
        "levels are those of the public ImageNet-64 code, on the rectified-flow path: t = sigma / (1 + sigma)",
        "the four levels of `four-step` are even; those of the code, in latents, are about 0.94, 0.80, 0.62 and 0.41",
        "the head is a perceptron on pooled features instead of a convolution on the middle block of a UNet",
        "clip holds for each player by itself, where the code clips critic and head together",
        "the teacher is asked as it is: a teacher with guidance is given as a guided teacher",
    ),
)  # fmt: skip
