"""SRPO: right answers are learned from by their rewards, wrong ones from oneself with a right answer in view."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.context import told
from limbeck.parts.optimizer import adamw
from limbeck.parts.policy import clipped_surrogate, graded, group_relative, recorded
from limbeck.parts.rollout import rollout
from limbeck.parts.routing import all_told, apart, certain, failures, importance, siblings, weighed
from limbeck.parts.token import jsd
from limbeck.parts.top_k import own_top_k
from limbeck.parts.transcript import repeated
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import ema_of, learning, self_under

SHOWN = "\n\nSomebody has solved it like this:\n\n{told}\n\nNow solve the problem yourself."
LOSS, BATCH = "distill.student.loss", "distill.student.batch"

answered = repeated(copies=8) >> rollout(max_new_tokens=1024) >> graded() >> group_relative(copies=8)
routed = answered >> siblings(copies=8) >> failures() >> recorded() >> certain(sharpness=1.0)
distil = weighed(column="certainty") * (importance(cap=2.0) * own_top_k(loss=jsd(beta=0.5), k=100))

recipe = Recipe(
    key="srpo", title="Unifying Group-Relative and Self-Distillation Policy Optimization via Sample Routing",
    paper="arXiv:2604.02288", family="lm", kind="method", learns="student weights", teacher="self",
    players={
        "student": learning(adamw(lr=1e-6)), "average": ema_of("student", decay=0.95),
        "teacher": self_under("average", told(column="sibling", template=SHOWN)),
    },
    stages=(
        Learn(
            "distill",
            (Phase("student", ("student",), terms(grpo=apart() * clipped_surrogate(high=0.28), sdpo=distil), routed),),
            batch_size=32,
        ),
    ),
    variants={"sdpo": {f"{LOSS}.grpo.weight": 0.0, f"{BATCH}.failures": all_told(), f"{BATCH}.certain.sharpness": 0.0}},
    deviates=(
        "sdpo: divided by the tokens of all answers, those that have nothing to be told included",
        "no feedback of an environment beside right answers, and our own words around what is shown",
    ),
)  # fmt: skip
