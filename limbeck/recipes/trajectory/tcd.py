"""TCD: consistency distillation over whole trajectories, so that the student can stop at any level on the way.

A consistency model knows only the way down to the data, and pays for every further step with fresh noise. Here the
student learns to jump to any level below, from the teacher's solver and a moving average of itself, and is sampled by
jumps that overshoot a little and come back with a little noise.
"""

from __future__ import annotations

from limbeck.parts.consistency import consistency
from limbeck.parts.distance import huber_each
from limbeck.parts.neighbours import grid_step, reach_below, teacher_step
from limbeck.parts.optimizer import adamw
from limbeck.parts.solver import euler, even
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import ema_of, frozen, learning

STATES = grid_step(times=even(50)) >> reach_below() >> teacher_step(solver=euler())
LOSS = consistency(distance=huber_each(c=0.001))
UNTOLD = {"distill.student.loss.told": False}

recipe = Recipe(
    key="tcd",
    title="Trajectory Consistency Distillation",
    paper="arXiv:2402.19159",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={"student": learning(adamw(lr=5e-6)), "teacher": frozen(), "target": ema_of("student", decay=0.95)},
    stages=(Learn("distill", (Phase("student", ("student",), LOSS, STATES),), steps=3_000, batch_size=1_024),),
    variants={"untold": UNTOLD},
    deviates=(
        "the student is told the level to reach, which the paper calls TCF(S+); `untold` is its TCF(1)",
        "the level to reach is any below the nearer state, where the paper takes one of the grid",
        "the grid is even in rectified-flow time, not in the index of a variance-preserving table",
        "guidance belongs to the teacher: a guided teacher is given as a guided net",
    ),
)
