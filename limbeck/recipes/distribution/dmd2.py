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
from limbeck.parts.schedule import linear
from limbeck.parts.states import backward_simulated, uniform_levels
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Learn, Phase, Recipe, Tune, less
from limbeck.roles import built, copy_of, frozen, learning

# small nets that must follow a moving target within a few hundred steps
QUICK = adamw(lr=linear(start=5e-3, end=5e-4), betas=(0.5, 0.95))
EVEN = uniform_levels()
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
            steps=200_000, batch_size=280, clip=10.0,
        ),
    ),
    variants={
        "four-step": {
            "distill.critic.batch": FOUR, "distill.student.batch": FOUR, "distill.student.loss.gan.weight": 5e-3,
            "student.optimizer.lr": 5e-7, "critic.optimizer.lr": 5e-7, "head.optimizer.lr": 5e-7,
        },
    },
    deviates=(
        "levels are those of the public ImageNet-64 code, on the rectified-flow path: t = sigma / (1 + sigma)",
        "the head is a perceptron on pooled features instead of a convolution on the middle block of a UNet",
        "clip holds for each player by itself, where the code clips critic and head together",
        "the teacher is asked as it is: a teacher with guidance is given as a guided teacher",
    ),
    claim=Claim(
        bed="mog8w",
        set={
            "distill.steps": 300, "distill.batch_size": 128, "distill.critic.loss.denoise.levels": EVEN,
            "distill.critic.loss.denoise.sigma_data": 1.4, "distill.critic.loss.gan.levels": EVEN,
            "distill.critic.loss.gan.weight": 0.3, "distill.student.loss.match.levels": EVEN,
            "distill.student.loss.gan.levels": EVEN, "distill.student.loss.gan.weight": 1.0,
            "critic": learning(QUICK), "head.optimizer": QUICK,
            "student.optimizer": adamw(lr=linear(start=5e-3, end=2.5e-4), betas=(0.5, 0.95)),
        },
        arms={
            "dmd2": Arm(),
            "no-gan": Arm(
                set={
                    "distill.critic.learns": ("critic",),
                    "distill.critic.loss": terms(denoise=fake_denoising(levels=EVEN, sigma_data=1.4)),
                    "distill.student.loss": terms(match=distribution_matching(levels=EVEN)),
                },
            ),
        },
        probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
        says=(less("sw2", "dmd2", "no-gan", by=0.05),),
        tune=Tune(
            "sw2",
            {
                "dmd2": {"distill.student.loss.gan.weight": (1.0, 3.0), "student.optimizer.lr.start": (2.5e-3, 5e-3)},
                "no-gan": {"student.optimizer.lr.start": (1.25e-3, 2.5e-3, 5e-3, 1e-2)},
            },
        ),
        control="no-gan",
    ),
)  # fmt: skip
