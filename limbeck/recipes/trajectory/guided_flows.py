"""Guided flows: flow matching in which some rows lose their class, so that one net can be sampled under guidance.

On a Gaussian path velocity and score differ by a multiple of x, so guidance of velocities is guidance of scores. The
player `guided` is the student under guidance, and what samples are drawn from.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.flow_matching import flow_matching, path_states, path_weight, straight_path
from limbeck.parts.guidance import dropped_labels
from limbeck.parts.guided import guided_student
from limbeck.parts.optimizer import adam
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, learning

STATES = dropped_labels(share=0.2) >> path_states()
PHASE = Phase("student", ("student",), terms(flow=path_weight() * flow_matching()), STATES)

recipe = Recipe(
    key="guided-flows",
    title="Guided Flows for Generative Modeling and Decision Making",
    paper="arXiv:2311.13443",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="none",
    players={
        "student": learning(adam(lr=1e-4)), "path": built(straight_path()), "guided": built(guided_student(scale=1.5)),
    },
    stages=(Learn("fit", (PHASE,), steps=400_000, batch_size=256),),
    deviates=(
        "the share of rows without class, rate and scale are of one setting; the paper has others for each domain",
        "speech and plans are not here: a plan is a datum, and the return that it should have its condition",
    ),
)  # fmt: skip
