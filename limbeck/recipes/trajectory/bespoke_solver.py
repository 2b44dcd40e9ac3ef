"""Bespoke solvers: 8 n - 1 numbers, a change of scale and time, fit a midpoint rule of n steps to one field.

Order two and the field stay as they are; only where and in which units the rule is applied is learned, by a bound of
the error at the end for which no step waits for another.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adam
from limbeck.parts.scale_time import exact_path, rmse_bound, scale_time
from limbeck.parts.solver import even
from limbeck.parts.states import few_step
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, frozen

PHASE = Phase(
    "solver", ("solver",), rmse_bound(lipschitz=1.0).on(student="teacher"), exact_path().on(student="teacher")
)

recipe = Recipe(
    key="bespoke-solver", title="Bespoke Solvers for Generative Flow Models", paper="arXiv:2310.19075",
    family="trajectory", kind="method", learns="solver coefficients", teacher="white-box", product="solver",
    players={"teacher": frozen(), "solver": built(scale_time(times=even(10)), adam(lr=2e-3))},
    stages=(Learn("distill", (PHASE,), steps=12_000, batch_size=40),),
    sampler=few_step(),
    variants={f"nfe-{2 * n}": {"solver.builder.times": even(n)} for n in (4, 5, 8)},
    deviates=(
        "the Lipschitz constant of a midpoint step is derived here from that of the field",
        "the exact path is solved at the times themselves by a rule of order three, not interpolated",
        "times by a softmax over half-steps, speeds and scales by exponentials",
    ),
)  # fmt: skip
