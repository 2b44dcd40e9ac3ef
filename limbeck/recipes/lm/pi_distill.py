"""pi-Distill: one net learns with privileged information and without, from what it says with it."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.context import remembered, told
from limbeck.parts.informed import noted, noted_under, said_under, under
from limbeck.parts.optimizer import adamw
from limbeck.parts.policy import clipped_surrogate, graded, group_standardised, recorded
from limbeck.parts.rollout import rollout
from limbeck.parts.sampled import sampled_k3
from limbeck.parts.token import cross_entropy
from limbeck.parts.trajectory_ratio import noted_reverse_kl, trajectory_surrogate
from limbeck.parts.transcript import repeated
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import learning, self_under

informed, said = told(column="reference"), rollout(max_new_tokens=1024)
asked, marked = remembered() >> repeated(copies=8), graded() >> group_standardised(copies=8)
from_teacher = asked >> said_under(context=informed, on_policy=said) >> marked
states = from_teacher >> noted_under(context=informed, column="logp_old") >> noted()
joint = terms(
    teacher=0.5 * under(context=informed, loss=clipped_surrogate() + 0.25 * noted_reverse_kl()),
    student=0.5 * (trajectory_surrogate() + 0.25 * cross_entropy()),
)
opsd, PHASE = clipped_surrogate() + 0.25 * sampled_k3(), "distill.student"

recipe = Recipe(
    key="pi-distill", title="Privileged Information Distillation for Language Models",
    paper="arXiv:2602.04942", family="lm", kind="method", learns="student weights", teacher="self",
    players={"student": learning(adamw(lr=1e-6)), "teacher": self_under("student", informed)},
    stages=(Learn("distill", (Phase("student", ("student",), joint, states),)),),
    variants={
        "teacher-only": {f"{PHASE}.loss.teacher.weight": 1.0, f"{PHASE}.loss.student.weight": 0.0},
        "student-only": {f"{PHASE}.loss.teacher.weight": 0.0, f"{PHASE}.loss.student.weight": 1.0},
        "opsd": {f"{PHASE}.batch": asked >> said >> marked >> recorded(), f"{PHASE}.loss": opsd},
    },
    deviates=(
        "what is told is the given answer, where the paper tells the actions of a frontier agent over many turns",
        "KL(sg pi_T || pi_S) is told by its cross-entropy: the same derivative, without the teacher's entropy",
        "sums over tokens are divided by the tokens of the batch, as the loop does, not by its answers",
        "no penalty on tokens that speak of what was told",
    ),
)  # fmt: skip
