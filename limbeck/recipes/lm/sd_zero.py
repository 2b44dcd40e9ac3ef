"""SD-Zero: learn to revise one's answers given their rewards, then answer as the reviser of that answer would."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.context import told
from limbeck.parts.informed import said_under, under
from limbeck.parts.optimizer import adamw
from limbeck.parts.policy import graded
from limbeck.parts.revision import attempted
from limbeck.parts.rollout import rollout
from limbeck.parts.token import cross_entropy, reverse_kl, sequence_mean
from limbeck.parts.transcript import accepted, repeated
from limbeck.recipe import Learn, Make, Phase, Recipe, Repeat
from limbeck.roles import ema_of, learning, self_under

READ = "\n\nThis has been answered before:\n\n{told}"

said, reviser = rollout(max_new_tokens=1024), told(column="attempt", template=READ)
tried = said >> graded() >> attempted()
revised = repeated(copies=1) >> tried >> said_under(context=reviser, on_policy=said) >> accepted()
learned = terms(revision=under(context=reviser, loss=cross_entropy()), answer=cross_entropy())
learn = Learn("learn", (Phase("student", ("student",), learned),), data="revised")

recipe = Recipe(
    key="sd-zero", title="Self-Distillation Zero: Self-Revision Turns Binary Rewards into Dense Supervision",
    paper="arXiv:2604.12002", family="lm", kind="method", learns="student weights", teacher="self",
    players={
        "student": learning(adamw(lr=1e-6)), "past": ema_of("student", decay=0.0, every=50),
        "teacher": self_under("past", reviser),
    },
    stages=(
        Repeat("revise", (Make("ask", revised, into="revised"), learn), carry={"past": "student"}),
        Learn("distill", (Phase("student", ("student",), sequence_mean() * reverse_kl(), tried),)),
    ),
    deviates=(
        "the paper's divergence, rate and period of the teacher were not at hand: reverse KL, 1e-6 and 50 steps",
        "the control phrases and what stands around an attempt are in our own words",
    ),
)  # fmt: skip
