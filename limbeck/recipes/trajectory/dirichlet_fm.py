"""Dirichlet flow matching, distilled: noise on the simplex goes in, a sequence of letters comes out in one pass.

Where the flow carries a noisy sequence is a function of that noise alone; it is computed with many evaluations of the
teacher, and a student learns to tell the letters from the noise at once.
"""

from __future__ import annotations

from limbeck.parts.dirichlet import dirichlet_states, flow_pairs, letters
from limbeck.parts.optimizer import adam
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import frozen, learning

FLOW = {"distill.data": "train", "distill.student.batch": dirichlet_states()}

recipe = Recipe(
    key="dirichlet-fm",
    title="Dirichlet Flow Matching with Applications to DNA Sequence Design",
    paper="arXiv:2402.05841",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={"student": learning(adam(lr=5e-4)), "teacher": frozen()},
    stages=(
        Make("pairs", flow_pairs(), into="pairs", chunk=1000),
        Learn("distill", (Phase("student", ("student",), letters()),), steps=450_000, batch_size=256, data="pairs"),
    ),
    variants={"flow": FLOW},
    deviates=(
        "pairs are made once and used again, where the code runs the teacher anew at every step",
        "the pull of a corner is a closed form, where the code takes differences of the incomplete beta function",
        "gradients are not clipped, where the code clips at 1; the noisiest level is 1, and tells the student 0",
        "the variant `flow` trains a teacher; guidance of the teacher is not part of it",
    ),
)
