"""LADD: the student plays against heads on the features of its own teacher, on data that the teacher has made.

Under noise the teacher's layers judge the whole of a picture at high levels and its detail at low ones, so the levels
say what the student learns. There is no other loss.
"""

from __future__ import annotations

from limbeck.parts.biased_levels import chosen_levels
from limbeck.parts.continuous import level_states
from limbeck.parts.hinge import hinge_discriminator, hinge_generator, level_heads
from limbeck.parts.optimizer import adamw
from limbeck.parts.pairs import sampled_pairs
from limbeck.parts.solver import even
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import built, frozen, learning

STATES = level_states(levels=chosen_levels(times=(1.0, 0.75, 0.5, 0.25), chances=(0.7, 0.1, 0.1, 0.1)))

recipe = Recipe(
    key="ladd", title="Fast High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation",
    paper="arXiv:2403.12015", family="distribution", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=1e-5)), "teacher": frozen(), "heads": built(level_heads(), adamw(lr=1e-5)),
    },
    stages=(
        Make("make", sampled_pairs(times=even(50)), into="made"),
        Learn(
            "distill",
            phases=(
                Phase("heads", ("heads",), hinge_discriminator(), STATES, times=4),
                Phase("student", ("student",), hinge_generator(), STATES),
            ),
            steps=10_000, batch_size=256, data="made",
        ),
    ),
    deviates=(
        "rates, steps and batch size are ours: the paper does not give them; four updates of the heads to one of the "
        "student are those of a public framework",
        "the first 500 steps, in which the paper shows the two lower levels only, are left out",
        "the heads are perceptrons on every position, told level and class; the paper's are convolutions, told text",
        "the heads read the last features of the teacher; all its attention blocks are named by `heads.builder.taps`",
        "the second stage of the paper, which tunes the student to preferences, is another method",
    ),
)  # fmt: skip
