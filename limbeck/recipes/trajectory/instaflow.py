"""InstaFlow: straighten the flow of a guided teacher by its own pairs, then distil the straight flow into one step.

To distil the teacher at once is hard, for noise and datum are far apart along bent trajectories. The player `flow` is
the straightened student under its own, milder guidance, which makes the pairs for the second stage.
"""

from __future__ import annotations

from dataclasses import replace

from limbeck.part import terms
from limbeck.parts.flow_matching import flow_matching
from limbeck.parts.guided import guided_student, guided_teacher
from limbeck.parts.optimizer import adamw
from limbeck.parts.pairs import end_matching, independent_pairs, pair_ends, sampled_pairs, straight_states
from limbeck.parts.solver import dpm_multistep, euler, even
from limbeck.parts.states import few_step
from limbeck.recipe import Learn, Make, Phase, Recipe, Repeat
from limbeck.roles import built, frozen, learning

asked = sampled_pairs(solver=dpm_multistep(), times=even(25)).on(teacher="guided")
again = sampled_pairs(solver=euler(), times=even(25)).on(teacher="flow")
line = Phase("student", ("student",), terms(flow=flow_matching()), straight_states())
first = replace(line, batch=independent_pairs() >> straight_states())
end = Phase("student", ("student",), terms(end=end_matching()), pair_ends())

recipe = Recipe(
    key="instaflow", title="InstaFlow: One Step is Enough for High-Quality Diffusion-Based Text-to-Image Generation",
    paper="arXiv:2309.06380", family="trajectory", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=1e-4)), "teacher": frozen(), "guided": built(guided_teacher(scale=6.0)),
        "flow": built(guided_student(scale=1.5)),
    },
    stages=(
        Repeat("begin", (Learn("flow", (first,), steps=70_000, batch_size=256),), times=0),
        Make("ask", asked, into="pairs"),
        Repeat("straighten", (
            Learn("reflow", (line,), steps=70_000, batch_size=256, data="pairs"),
            Make("again", again, into="straight"),
        )),
        Learn("distill", (end,), steps=50_000, batch_size=1_024, data="straight"),
    ),
    sampler=few_step(),
    variants={
        "direct": {"straighten.times": 0, "distill.data": "pairs"},
        "unconditional": {"guided.builder.scale": 1.0, "flow.builder.scale": 1.0},
    },
    deviates=(
        "the student is given, as a copy of the teacher where there are weights to copy; the paper always copies; "
        "with begin.times=1 it learns the flow of the data first",
        "the distance of the second stage is the square alone; the paper goes on with a perceptual one",
        "the distilled student is one net of the teacher's size; the paper also stacks two",
        "the student is asked for its velocity whatever its head, where the paper reads the noise head as a velocity",
    ),
)  # fmt: skip
