"""Hyper-SD: consistency inside segments of the trajectory, of which there are ever fewer, and then score distillation.

With eight segments the targets are near and easy; each stage halves their number, until the whole way is one segment
and the student jumps from any level to any lower one. Last, one-step samples are moved along the difference of two
scores, while the student goes on being consistent, so that one set of weights serves every number of steps.
"""

from __future__ import annotations

from limbeck.parts.consistency import consistency
from limbeck.parts.distance import squared
from limbeck.parts.distribution import distribution_matching, fake_denoising
from limbeck.parts.neighbours import grid_step, reach_below, teacher_step
from limbeck.parts.optimizer import adamw
from limbeck.parts.solver import even
from limbeck.parts.states import noise_states
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import copy_of, ema_of, frozen, learning


def segmented(segments: int) -> Phase:
    """Consistency inside segments of the trajectory."""
    states = grid_step(times=even(64)) >> reach_below(segments=segments) >> teacher_step()
    return Phase("student", ("student",), consistency(distance=squared()), states)


NOISE = noise_states()
SCORE = (
    Phase("critic", ("critic",), fake_denoising(), NOISE, times=5),
    Phase("match", ("student",), distribution_matching(), NOISE),
    segmented(1),
)

recipe = Recipe(
    key="hyper-sd", title="Hyper-SD: Trajectory Segmented Consistency Model for Efficient Image Synthesis",
    paper="arXiv:2404.13686", family="trajectory", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=1e-6)), "teacher": frozen(), "target": ema_of("student", decay=0.95),
        "critic": copy_of("teacher", adamw(lr=1e-6)),
    },
    stages=(
        *(Learn(f"segments-{k}", (segmented(k),), steps=10_000, batch_size=512) for k in (8, 4, 2, 1)),
        Learn("score", SCORE, steps=10_000, batch_size=512),
    ),
    deviates=(
        "no stage of human feedback, which needs reward models of pictures",
        "the distance inside segments is square at every stage; the paper mixes in an adversarial one, more and more "
        "as segments grow, and does not publish its weights",
        "one set of weights learns all stages, where the paper merges low-rank adapters; in the last stage consistency "
        "goes on, in place of the paper's distance to the teacher's samples",
        "rates, steps and batch size are not published with the stages and are those of its kind",
    ),
)  # fmt: skip
