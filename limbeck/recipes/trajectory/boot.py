"""BOOT: a one-step student from a teacher alone, without data and without simulating the teacher.

The student predicts the signal of the teacher's state at any level from the noise at the start. It learns each level
from its own prediction at the level before and one step of the teacher, and the first level from the teacher's guess.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.bootstrap import bootstrapped, boundary, noise_and_levels
from limbeck.parts.optimizer import adamw
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import frozen, learning

LOSS = terms(bootstrap=bootstrapped(), boundary=0.1 * boundary())

recipe = Recipe(
    key="boot",
    title="BOOT: Data-free Distillation of Denoising Diffusion Models with Bootstrapping",
    paper="arXiv:2306.05544",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={"student": learning(adamw(lr=2e-5)), "teacher": frozen()},
    stages=(
        Learn(
            "distill", (Phase("student", ("student",), LOSS, noise_and_levels(gap=0.04)),),
            steps=500_000, batch_size=128, clip=1.0,
        ),
    ),
    deviates=(
        "levels are even in rectified-flow time, where the paper's are those of its teacher's schedule",
        "trajectories start at pure noise, t = 1, where the paper's table of levels leaves a little signal",
        "the weight of levels is 1, and one step of DDIM gives the target; the paper's text-to-image students use Heun",
        "rows of data give the shape of a sample and nothing else",
    ),
)  # fmt: skip
