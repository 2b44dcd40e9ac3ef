"""RF-Solver: rectified flow is inverted by steps of order two, so that a datum finds its noise, and its way back.

The second term of Taylor's series is had from a half-step; that is the midpoint rule. On the way back towards another
class, features of the way there keep the structure of the datum.
"""

from __future__ import annotations

from limbeck.parts.injection import feature_edit
from limbeck.parts.reuse import reused_midpoint
from limbeck.parts.solver import even, midpoint
from limbeck.recipe import Make, Recipe
from limbeck.roles import frozen

recipe = Recipe(
    key="rf-solver", title="Taming Rectified Flow for Inversion and Editing", paper="arXiv:2411.04746",
    family="trajectory", kind="sampler", learns="nothing", teacher="none", product="edited",
    players={"student": frozen()},
    stages=(
        Make("edit", feature_edit(solver=midpoint(), times=even(25), kept=4, target=2.0), into="edited", data="test"),
    ),
    variants={"fireflow": {"edit.rows.solver": reused_midpoint()}},
    deviates=(
        "which modules keep their answers is set by their paths: the values of the single-stream blocks in the paper",
        "on the way back a module takes the answer of the nearest level, where the code takes that of the same step",
        "guidance is done by two evaluations; the paper's net reads the scale",
    ),
)  # fmt: skip
