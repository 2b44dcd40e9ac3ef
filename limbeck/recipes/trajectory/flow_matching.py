"""Flow matching: a net learns the velocity of a path from data alone; on straight paths few steps sample it.

The variant `diffusion` learns the velocity of the path of diffusion by the same regression.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.flow_matching import diffusion_path, flow_matching, path_states, path_weight, straight_path
from limbeck.parts.optimizer import adam
from limbeck.parts.solver import ode_sample
from limbeck.parts.triangle import triangle
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, learning

PHASE = Phase("student", ("student",), terms(flow=path_weight() * flow_matching()), path_states())

recipe = Recipe(
    key="flow-matching",
    title="Flow Matching for Generative Modeling",
    paper="arXiv:2210.02747",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="none",
    players={"student": learning(adam(lr=triangle(peak=5e-4))), "path": built(straight_path())},
    stages=(Learn("fit", (PHASE,), steps=400_000, batch_size=256),),
    sampler=ode_sample(),
    variants={"diffusion": {"path.builder": diffusion_path()}},
    deviates=(
        "the straight path leaves sigma_min = 1e-5 of noise at the datum; the paper says that it is small",
        "a net is asked on the rectified-flow path, where the loss of each path is a weight on the same error",
    ),
)
