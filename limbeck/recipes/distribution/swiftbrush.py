"""SwiftBrush: variational score distillation with a generator in the place of particles; no pictures are needed.

The student starts as the teacher and answers pure noise in one step. A critic, the teacher with low-rank changes,
learns the field of what the student makes; the difference between the two moves it.
"""

from __future__ import annotations

from limbeck.parts.low_rank import low_rank_copy
from limbeck.parts.optimizer import adamw
from limbeck.parts.score_direction import critic_denoising, variational_score
from limbeck.parts.states import few_step, noise_states
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, frozen, learning

GUIDED = variational_score(scale=4.5, critic_scale=4.5)
MOVE, FOLLOW = (loss.on(scene="student") for loss in (GUIDED, critic_denoising()))

recipe = Recipe(
    key="swiftbrush",
    title="SwiftBrush: One-Step Text-to-Image Diffusion Model with Variational Score Distillation",
    paper="arXiv:2312.05239", family="distribution", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=1e-6, weight_decay=0.0)),
        "teacher": frozen(),
        "critic": built(low_rank_copy(rank=64, alpha=108.0), adamw(lr=1e-3, weight_decay=0.0)),
    },
    stages=(
        Learn(
            "distill",
            phases=(
                Phase("student", ("student",), MOVE, noise_states()),
                Phase("critic", ("critic",), FOLLOW, noise_states()),
            ),
            steps=65_000,
            batch_size=64,
        ),
    ),
    sampler=few_step(),
    deviates=(
        "the critic is never without its prompt as it learns; in the code it is in a tenth of its steps",
        "the critic's loss is on the noise; the code weighs it by alpha^2",
        "gradients are not clipped, and there is no moving average; the code has both",
        "rows of data give prompts and shapes alone; of pictures nothing is read",
    ),
)  # fmt: skip
