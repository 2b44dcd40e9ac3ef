"""CausVid: a causal few-step student of clips, matched to a teacher that sees them whole.

A net that draws chunk by chunk shows its first frames at once. It begins from the teacher's weights and from a few of
the teacher's trajectories; then both scores that teach it see the future, which it does not.
"""

from __future__ import annotations

from limbeck.parts.clips import attended, clip_trajectories, regression, seen_chunks, trajectory_chunks
from limbeck.parts.distribution import distribution_matching, fake_denoising
from limbeck.parts.optimizer import adamw
from limbeck.parts.states import uniform_levels
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import built, frozen

ADAM, EVEN, CHUNKS = adamw(lr=2e-6), uniform_levels(), seen_chunks(chunk=3)
BEGIN = Phase("student", ("student",), regression(), trajectory_chunks(chunk=3))
CRITIC = Phase("critic", ("critic",), fake_denoising(levels=EVEN), CHUNKS, times=5)
MATCH = Phase("student", ("student",), distribution_matching(levels=EVEN).on(teacher="real"), CHUNKS)

recipe = Recipe(
    key="causvid",
    title="From Slow Bidirectional to Fast Causal Video Generators",
    paper="arXiv:2412.07772",
    family="distribution",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={
        "student": built(attended(chunk=3), ADAM), "teacher": frozen(), "real": built(attended()),
        "critic": built(attended(), ADAM),
    },
    stages=(
        Make("trajectories", clip_trajectories(), into="trajectories"),
        Learn("begin", (BEGIN,), steps=3_000, batch_size=128, data="trajectories"),
        Learn("distill", (CRITIC, MATCH), steps=1_200, batch_size=64),
    ),
    deviates=(
        "student, real and critic are made from the teacher; what each sees is `builder.chunk`, 0 for whole clips",
        "a step is five updates of the critic and one of the student; the paper counts 6,000 of the critic",
        "levels of matching and critic are even, where the code shifts them by 8 towards noise, for its long clips",
        "the critic is weighed as in EDM, where the code fits its velocity; gradients are not clipped (10 in the code)",
        "trajectories are solved by Euler, 8 steps from one level to the next",
        "the teacher is asked as it is: a teacher with guidance is given as a guided teacher",
    ),
)  # fmt: skip
