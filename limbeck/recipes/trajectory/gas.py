"""GAS: every number of a multistep solver learns, by where it ends and by a discriminator of the ends.

Times, the times that the net is told, and a sum of past states and answers that is added to each step; all begin at
what theory gives. The gradient goes through the whole run of few steps, and nothing but its end is compared.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.general_multistep import end_regression, general
from limbeck.parts.optimizer import adam
from limbeck.parts.plan import solved_ends
from limbeck.parts.relativistic import judge, paired_discriminator, paired_generator
from limbeck.parts.solver import dpm_multistep, karras
from limbeck.parts.states import few_step
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import built, frozen

TEACHER = {"student": "teacher"}
JUDGE = Phase("critic", ("critic",), paired_discriminator().on(**TEACHER))
LOSS = terms(end=end_regression().on(**TEACHER), gan=0.1 * paired_generator().on(**TEACHER))
ends = solved_ends(solver=dpm_multistep(order=3), times=karras(20)).on(**TEACHER)

recipe = Recipe(
    key="gas", title="GAS: Improving Discretization of Diffusion ODEs via Generalized Adversarial Solver",
    paper="arXiv:2510.17699", family="trajectory", kind="method", learns="solver coefficients", teacher="white-box",
    product="solver",
    players={
        "teacher": frozen(), "solver": built(general(times=karras(4)), adam(lr=1e-3)),
        "critic": built(judge(), adam(lr=1e-5)),
    },
    stages=(
        Make("solve", ends, into="ends"),
        Learn(
            "distill",
            (JUDGE, Phase("solver", ("solver",), LOSS)),
            steps=10_000, batch_size=24, data="ends",
        ),
    ),
    sampler=few_step(),
    variants={"gs": {"distill.solver.loss": terms(end=end_regression().on(**TEACHER))}},
    deviates=(
        "ends are compared by mean absolute differences, as the paper does in latents, where it has LPIPS for pixels",
        "what is added is a sum of past answers, not of their divided differences: the same space of steps",
        "a net told another time is asked for its datum there; the code converts its noise at the time of the state",
        "the teacher's solver is DPM-Solver++ of order three instead of UniPC, and there is no moving average",
    ),
)  # fmt: skip
