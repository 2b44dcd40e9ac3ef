"""OPSD: learn on one's own answers from oneself, as one was, with the reference solution in view."""

from __future__ import annotations

from limbeck.parts.context import remembered, told
from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import rollout
from limbeck.parts.sampled import sampled_k1
from limbeck.parts.token import jsd, sequence_mean
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import copy_of, ema_of, learning, self_under

answered = remembered() >> rollout(temperature=1.1, top_p=0.95, max_new_tokens=1024)

recipe = Recipe(
    key="opsd", title="Self-Distilled Reasoner: On-Policy Self-Distillation for Large Language Models",
    paper="https://github.com/siyan-zhao/OPSD", family="lm", kind="method", learns="student weights", teacher="self",
    players={
        "student": learning(adamw(lr=2e-4, weight_decay=0.0)), "initial": copy_of("student"),
        "teacher": self_under("initial", told()),
    },
    stages=(
        Learn(
            "distill",
            (Phase("student", ("student",), sequence_mean() * jsd(beta=0.5, temperature=1.1), answered),),
            steps=200, batch_size=32, clip=1.0,
        ),
    ),
    variants={
        "forward-kl": {"distill.student.loss.beta": 0.0},
        "sampled-token": {"distill.student.loss": sequence_mean() * sampled_k1(temperature=1.1)},
        "ema-teacher": {"initial": ema_of("student", decay=0.999)},
        "dynamic-teacher": {"teacher": self_under("student", told())},
    },
    deviates=(
        "beta is the teacher's share of the mixture, as in the code; 0 is forward KL there and here, where JSD is 0",
        "the teacher is a copy of the student as it came; the code turns off LoRA, which `lora:` sources do not need",
        "all weights learn unless the student is a `lora:` source; the code trains LoRA of rank 64 alone",
        "answers are drawn from a nucleus of 0.95 without the code's cut to the 20 likeliest tokens",
        "the teacher reads the reference as it stands: no explanation is written first (the code's reason_first)",
    ),
)  # fmt: skip
