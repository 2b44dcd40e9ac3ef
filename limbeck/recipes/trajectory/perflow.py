"""PeRFlow: make a flow straight window by window, from noised data, so that pairs need only a window's simulation.

Sampled by one or more straight steps a window. As the change is small, the difference of weights also speeds up other
nets tuned from the same one (`limbeck.parts.windows.add_delta`).
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.flow_matching import flow_matching
from limbeck.parts.guided import guided_teacher
from limbeck.parts.optimizer import adamw
from limbeck.parts.solver import euler, even, ode_sample
from limbeck.parts.windows import window_states
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, frozen, learning

STATES = window_states(solver=euler(), borders=even(4), steps=8).on(teacher="guided")
PHASE = Phase("student", ("student",), terms(flow=flow_matching()), STATES)

recipe = Recipe(
    key="perflow",
    title="PeRFlow: Piecewise Rectified Flow as Universal Plug-and-Play Accelerator",
    paper="arXiv:2405.07510",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={
        "student": learning(adamw(lr=8e-5)), "teacher": frozen(), "guided": built(guided_teacher(scale=7.5)),
    },
    stages=(Learn("distill", (PHASE,), steps=4_000, batch_size=1_024),),
    sampler=ode_sample(times=even(4)),
    variants={"unguided": {"guided.builder.scale": 1.0}},
    deviates=(
        "numbers are those of the public code and notes on Stable Diffusion 1.5, which clips gradients at 1 and "
        "samples from a moving average",
        "windows are even on the rectified-flow path and lines straight there, not on the path of the teacher",
        "the teacher has one scale of guidance (CFG-fixed); with the variant unguided the student is guided itself",
        "the student is asked for its velocity; no head is rewritten to fit samplers of the teacher",
    ),
)  # fmt: skip
