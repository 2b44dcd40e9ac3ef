"""PACED: learn most from prompts that the student gets right now and then; cover the teacher, then consolidate."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.pacing import pace, paced, rated
from limbeck.parts.rollout import rollout
from limbeck.parts.schedule import cosine
from limbeck.parts.token import forward_kl, reverse_kl, sequence_mean
from limbeck.recipe import Learn, Make, Phase, Recipe, Repeat
from limbeck.roles import frozen, learning

said = rollout(max_new_tokens=512)
rate = Make("rate", rated(said=said), into="rated", data="answers")
weigh = Make("weigh", paced(), into="paced", data="rated", chunk=0)
forward = Phase("student", ("student",), pace() * (sequence_mean() * forward_kl()))
reverse = Phase("student", ("student",), pace() * (sequence_mean() * reverse_kl()), batch=said)

recipe = Recipe(
    key="paced", title="PACED: Distillation at the Frontier of Student Competence", paper="arXiv:2603.11178",
    family="lm", kind="method", learns="student weights", teacher="white-box",
    players={"student": learning(adamw(lr=cosine(start=1e-5, warmup=0.05))), "teacher": frozen()},
    stages=(
        Make("ask", said.on(student="teacher"), into="answers"),
        Repeat("cover", (rate, weigh, Learn("learn", (forward,), data="paced"))),
        Repeat("consolidate", (rate, weigh, Learn("learn", (reverse,), data="paced"))),
    ),
    variants={
        "harder": {"cover.weigh.rows.beta": 2.0, "consolidate.weigh.rows.beta": 2.0},
        "forward-only": {"consolidate.times": 0}, "reverse-only": {"cover.times": 0},
    },
    deviates=(
        "weights have mean 1 over the rows that stay instead of over a batch, so that rows do not hang on each other",
        "pass rates are found anew once for each round; rate, steps and batch size of the paper were not at hand",
    ),
)  # fmt: skip
