"""AGD: adapters in a frozen net learn what guidance adds, from the states that guided sampling comes through.

The net answers in one evaluation what guidance takes two for; its weights stay as they are, and with the adapters off
it is the net that it was. Guided trajectories leave the noised data, so the lessons are taken on them.
"""

from __future__ import annotations

from limbeck.parts.adapters import adapted, guided_matching, guided_states
from limbeck.parts.guidance import guidance_scales
from limbeck.parts.optimizer import adamw
from limbeck.parts.solver import euler, even, ode_sample
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import built, frozen

trajectories = guidance_scales(low=1.0, high=6.0) >> guided_states(solver=euler(), times=even(50))
PHASE = Phase("student", ("student",), guided_matching())

recipe = Recipe(
    key="agd", title="Efficient Distillation of Classifier-Free Guidance using Adapters", paper="arXiv:2503.07274",
    family="trajectory", kind="method", learns="adapter weights", teacher="white-box",
    players={"teacher": frozen(), "student": built(adapted(), adamw(lr=1e-4))},
    stages=(
        Make("sample", trajectories, into="states"),
        Learn("distill", (PHASE,), steps=5_000, batch_size=64, data="states"),
    ),
    sampler=ode_sample(solver=euler(), times=even(50)),
    deviates=(
        "an adapter is a perceptron of features and conditions, where the paper has cross-attention or an offset",
        "the student holds a copy of the base weights, so that it can be saved and asked alone",
        "errors are of velocities, where the paper has those of noise",
        "states come from 50 steps of Euler, where the code takes 1,000 of the ancestral sampler; the rate is "
        "constant, where that of the code rises and falls, and decay is that of AdamW",
    ),
)  # fmt: skip
