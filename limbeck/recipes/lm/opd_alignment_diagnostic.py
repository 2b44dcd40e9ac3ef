"""Alignment diagnostic: does a teacher pull where success grows, node by node, before anything is trained?"""

from __future__ import annotations

from limbeck.parts.branch import branched, nodes, thinned
from limbeck.parts.context import remembered, told
from limbeck.parts.noisy import noisy
from limbeck.parts.policy import graded
from limbeck.parts.rollout import rollout
from limbeck.parts.sparse import nucleus
from limbeck.probes.alignment_score import alignment_bound, alignment_score, to_teacher_forward
from limbeck.recipe import Make, Measure, Recipe
from limbeck.roles import built, frozen, self_under

asked = thinned() >> remembered() >> rollout(max_new_tokens=128) >> graded()
survey = asked >> nodes(per_row=10) >> branched(targets=nucleus(p=0.98, k=4), share=0.0, copies=8)

recipe = Recipe(
    key="opd-alignment-diagnostic",
    title="Unmasking On-Policy Distillation: Where It Helps, Where It Hurts, and Why", paper="arXiv:2605.10889",
    family="lm", kind="diagnostic", learns="nothing", teacher="white-box", product="branches",
    players={"student": frozen(), "teacher": self_under("student", told())},
    stages=(
        Make("survey", survey, into="branches", data="test"),
        Measure(
            "alignment",
            {
                "reverse": alignment_score(), "forward": alignment_score(direction=to_teacher_forward()),
                "wrong": alignment_score(high=0.499), "right": alignment_score(low=0.5),
                "wrong_from": alignment_bound(high=0.499), "wrong_to": alignment_bound(high=0.499, level=0.95),
                "right_from": alignment_bound(low=0.5), "right_to": alignment_bound(low=0.5, level=0.95),
            },
        ),
    ),
    variants={
        "external": {"teacher": frozen()}, "answer-only": {"teacher.context.column": "answer"},
        "noise": {"teacher": built(noisy())},
    },
    deviates=(
        "only the abstract was at hand: the choice of nodes and the correction of the bias are ours",
        "nodes are drawn at random, ten an answer, so that the score is of all tokens and not of the uncertain ones",
        "one cosine of all nodes together instead of the mean of their cosines, which is noise where nothing matters",
        "candidates are the student's likeliest, the others are left out: the teacher's would favour its noise",
    ),
)  # fmt: skip
