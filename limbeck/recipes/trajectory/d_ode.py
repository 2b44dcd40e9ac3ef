"""D-ODE: each step of a solver leans away from the last answer by one number, found by least squares in seconds.

The field stays as it is. One number a step, the same for every trajectory, makes up for the steps that were left out,
and a batch of a hundred trajectories is enough to find it.
"""

from __future__ import annotations

from limbeck.parts.lean import fit_lean, lean, leaning
from limbeck.parts.solver import dpm_multistep
from limbeck.recipe import Recipe, Solve
from limbeck.roles import built, frozen

SECOND = dpm_multistep(order=2)

recipe = Recipe(
    key="d-ode", title="Distilling ODE Solvers of Diffusion Models into Smaller Steps", paper="arXiv:2309.16421",
    family="trajectory", kind="method", learns="solver coefficients", teacher="white-box", product="solver",
    players={"teacher": frozen(), "solver": built(lean())},
    stages=(Solve("fit", fit_lean().on(student="teacher"), learns=("solver",), batch_size=100),),
    variants={"dpm-solver": {"fit.step.base": SECOND, "solver.builder.solver.base": SECOND}},
    deviates=(
        "solvers of one evaluation a step; those of two a step lean in both evaluations in the paper",
        "the student goes on from its own states, and the times of the teacher are even between those of the student",
    ),
)  # fmt: skip
