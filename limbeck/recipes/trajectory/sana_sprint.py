"""SANA-Sprint: a flow model becomes a consistency model without training, and its heads keep the first step sharp.

Continuous-time consistency asks for a trigonometric path; any flow model is one exactly, once states and levels are
rescaled. The tangent keeps the student on the teacher's trajectories for any number of steps; a hinge game against
heads on the teacher's features mends what one step blurs.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.biased_levels import often_noise
from limbeck.parts.continuous import apart, continuous_consistency, inverse_noise, level_states, level_weighed, risen
from limbeck.parts.flowmap import log_weight
from limbeck.parts.hinge import hinge_discriminator, hinge_generator, level_heads
from limbeck.parts.levels import logit_normal_levels
from limbeck.parts.optimizer import adamw
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, frozen, learning

SLOW = adamw(lr=2e-6, weight_decay=0.0)
WIDE, LOW = logit_normal_levels(mean=0.2, std=1.6), logit_normal_levels(mean=-0.6, std=1.0)
TANGENT = continuous_consistency(sigma_data=0.5, warm=risen(share=0.2))
OFTEN = level_states(levels=often_noise(levels=WIDE, share=0.5))
GAME = apart(states=OFTEN, loss=hinge_generator(levels=LOW))
LOSS = terms(consistency=level_weighed(loss=TANGENT, prior=inverse_noise()), gan=0.5 * GAME)

recipe = Recipe(
    key="sana-sprint", title="SANA-Sprint: One-Step Diffusion with Continuous-Time Consistency Distillation",
    paper="arXiv:2503.09641", family="trajectory", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(SLOW), "teacher": frozen(), "heads": built(level_heads(), SLOW),
        "weights": built(log_weight(), SLOW),
    },
    stages=(
        Learn(
            "distill",
            phases=(
                Phase("student", ("student", "weights"), LOSS, level_states(levels=WIDE)),
                Phase("heads", ("heads",), 0.5 * hinge_discriminator(levels=LOW), OFTEN),
            ),
            steps=20_000, batch_size=512, clip=0.1,
        ),
    ),
    deviates=(
        "AdamW in place of CAME, at its rate",
        "the net is taken as it is; the paper first tunes it to a dense embedding of time and normalised attention",
        "the heads read the last features of the teacher; the code reads four of its twenty blocks",
        "the code also shows the heads data with the text of another, which is counted as generated",
        "the student does not read a guidance scale: a guided teacher is distilled at its own",
    ),
)  # fmt: skip
