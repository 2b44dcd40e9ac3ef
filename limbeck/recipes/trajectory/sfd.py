"""SFD: each step of a sampler with few steps is fitted to the teacher's trajectory, from the states it leads to itself.

The teacher runs once a batch, with a solver of order three on a few times between those of the student; the student
makes its steps one after the other, with an update for each. Minutes of fine-tuning are enough.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adam
from limbeck.parts.own_states import analytic_euler, one_step, teacher_path
from limbeck.parts.solver import dpm_multistep, karras, ode_sample
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import frozen, learning

# five times of the EDM grid: a first step without a net, then three with it
TIMES = karras(5)[:-1]
PATH = teacher_path(solver=dpm_multistep(order=3), times=TIMES, merge=4, analytic=True)
NAMES = ("first", "second", "third")

recipe = Recipe(
    key="sfd", title="Simple and Fast Distillation of Diffusion Models", paper="arXiv:2409.19681",
    family="trajectory", kind="method", learns="student weights", teacher="white-box",
    players={"student": learning(adam(lr=5e-5)), "teacher": frozen()},
    stages=(
        Learn(
            "distill",
            tuple(Phase(name, ("student",), one_step(step=i), PATH) for i, name in enumerate(NAMES)),
            steps=1_560, batch_size=128,
        ),
    ),
    sampler=ode_sample(solver=analytic_euler(), times=TIMES),
    deviates=(
        "after an update the states that lead to the next step are made anew, by the weights as they are then",
        "one number of steps a net: SFD-v, which reads it, is left out, and so is the second stage to one step",
    ),
)  # fmt: skip
