"""PW-OPSD: learn from oneself with the reference in view, late tokens of an answer more than early ones."""

from __future__ import annotations

from limbeck.parts.branch import branched, local_scores, nodes, thinned
from limbeck.parts.clipped import clipped_forward_kl, later
from limbeck.parts.context import remembered, told
from limbeck.parts.optimizer import adamw
from limbeck.parts.policy import graded
from limbeck.parts.rollout import rollout
from limbeck.parts.sparse import drawn
from limbeck.parts.token import sequence_mean
from limbeck.probes.branch_viability import local_auroc, position_auroc, position_lead_bound
from limbeck.recipe import Learn, Make, Measure, Phase, Recipe, Repeat
from limbeck.roles import copy_of, learning, self_under

teacher = self_under("initial", told())
answered = remembered() >> rollout(temperature=1.1, top_p=0.95, max_new_tokens=1024)
branches = branched(targets=drawn(draws=4), share=1.0, copies=4, max_new_tokens=1024)
survey = thinned() >> answered >> graded() >> nodes() >> branches >> local_scores()
figures = {"position": position_auroc(), "local": local_auroc(), "lead_from": position_lead_bound(level=0.05)}
loss = clipped_forward_kl(most=0.05, temperature=1.1)
learn = Phase("student", ("student",), later() * (sequence_mean() * loss), answered)

recipe = Recipe(
    key="pw-opsd",
    title="When Are Teacher Tokens Reliable? Position-Weighted On-Policy Self-Distillation for Reasoning",
    paper="arXiv:2605.21606", family="lm", kind="method", learns="student weights", teacher="self",
    players={"student": learning(adamw(lr=5e-6, weight_decay=0.0)), "initial": copy_of("student"), "teacher": teacher},
    stages=(
        Repeat("diagnose", (Make("survey", survey, into="branches"), Measure("viability", figures)), times=0),
        Learn("distill", (learn,), steps=100, batch_size=32, clip=0.1),
    ),
    variants={
        "diagnosed": {"diagnose.times": 1}, "uniform": {"distill.student.loss.weight.least": 1.0},
        "global": {"distill.student.loss": later() * loss},
        "reversed": {"distill.student.loss.weight.middle": 0.7, "distill.student.loss.weight.width": -0.1},
    },
    deviates=(
        "the diagnosis draws alternatives from the teacher; the paper takes its likeliest ones",
        "all weights learn unless the student is a `lora:` source; the code trains LoRA of rank 64 alone",
        "answers are drawn from a nucleus of 0.95 without the code's cut to the 20 likeliest tokens",
    ),
)  # fmt: skip
