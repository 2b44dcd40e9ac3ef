"""rCM: continuous-time consistency keeps the teacher's modes, and matching its distribution keeps the samples sharp.

The tangent alone follows every trajectory and lets errors pile up along it; the gap between two scores alone forgets
modes. The second is added once the first has warmed up, on states of the student's own runs.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.continuous import apart, continuous_consistency, coordinates, level_states, risen
from limbeck.parts.distribution import distribution_matching, fake_denoising
from limbeck.parts.levels import logit_normal_levels
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import piecewise
from limbeck.parts.states import backward_simulated
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import copy_of, frozen, learning

OWN = backward_simulated(times=(1.0, 0.783, 0.609, 0.406))
EVERYWHERE = logit_normal_levels(mean=0.0, std=1.6)
TANGENT = continuous_consistency(sigma_data=1.0, warm=risen(share=0.05), eased=True)
MATCH = apart(states=OWN, loss=distribution_matching(levels=EVERYWHERE))
# the code sums over coordinates, without a half
LATER, SUMMED = piecewise(values=(0.0, 2.0), until=(0.05,)), coordinates() * MATCH
DATA = level_states(levels=logit_normal_levels(mean=-0.8, std=1.6))

recipe = Recipe(
    key="rcm", title="Large Scale Diffusion Distillation via Score-Regularized Continuous-Time Consistency",
    paper="arXiv:2510.08431", family="trajectory", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=2e-6, betas=(0.0, 0.999))), "teacher": frozen(),
        "critic": copy_of("teacher", adamw(lr=4e-7, betas=(0.0, 0.999))),
    },
    stages=(
        Learn(
            "distill",
            phases=(
                Phase("critic", ("critic",), fake_denoising(levels=EVERYWHERE, sigma_data=1.0), OWN, times=4),
                Phase("student", ("student",), terms(consistency=100.0 * TANGENT, match=LATER * SUMMED), DATA),
            ),
            steps=20_000, batch_size=64,
        ),
    ),
    deviates=(
        "the levels of the student's own run are those at which the code used to sample; in training it draws them",
        "how many steps that run has is drawn for every row; in the code it goes round from one update to the next",
        "scores are compared, and the student learns, at the code's general levels; for Wan it has noisier ones",
        "the critic learns while the tangent warms up; what is not finite stops the run, where the code leaves it out",
    ),
)  # fmt: skip
