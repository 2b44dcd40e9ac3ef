"""Teacher hacking: follow a student's distance from its teacher, and from the truth that the teacher learned from."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import rollout
from limbeck.parts.token import cross_entropy, forward_kl, jsd, reverse_kl, sequence_mean
from limbeck.parts.trace import record, trace
from limbeck.parts.transcript import repeated
from limbeck.probes.language import token_kl
from limbeck.recipe import Learn, Make, Phase, Recipe, Repeat, Solve
from limbeck.recipes.baselines.sft import imitate
from limbeck.roles import built, frozen, learning

BATCH, LOSS = "rounds.distill.student.batch", "rounds.distill.student.loss"
SERIES = ("golden", "proxy", "seen")
said, optimised = rollout(max_new_tokens=64), learning(adamw(lr=3e-4))
by_oracle, by_teacher = said.on(student="oracle"), said.on(student="teacher")
taught = Phase("teacher", ("teacher",), (sequence_mean() * cross_entropy()).on(student="teacher"))
golden, proxy = record(figure=token_kl().on(teacher="oracle"), into="golden"), record(into="proxy")

recipe = Recipe(
    key="teacher-hacking", title="On Teacher Hacking in Language Model Distillation", paper="arXiv:2502.02671",
    family="lm", kind="study", learns="teacher weights, student weights", teacher="white-box",
    players={"oracle": frozen(), "teacher": optimised, "student": optimised, "trace": built(trace(series=SERIES))},
    stages=(
        Make("write", by_oracle, into="written"),
        Learn("teach", (taught,), data="written"), Learn("warm", imitate, data="written"),
        Make("ask", repeated(copies=1) >> by_teacher, into="answers"),
        Make("truth", by_oracle, into="truths", data="valid"), Make("echo", by_teacher, into="echoes", data="valid"),
        Repeat("rounds", (
            Learn("distill", (Phase("student", ("student",), sequence_mean() * forward_kl()),), data="answers"),
            Solve("golden", golden, ("trace",), data="truths"), Solve("proxy", proxy, ("trace",), data="echoes"),
            Solve("seen", record(into="seen"), ("trace",), data="answers"),
        ), times=50),
    ),
    variants={
        "online-teacher": {BATCH: by_teacher}, "online-student": {BATCH: said}, "five-answers": {"ask.rows.copies": 5},
        "reverse-kl": {LOSS: sequence_mean() * reverse_kl()}, "jsd": {LOSS: sequence_mean() * jsd(beta=0.5)},
    },
    deviates=(
        "AdamW at a constant rate, begun anew in each round; the paper's optimiser and rate were not at hand",
        "both stages take the same prompts, and a mean over rows of means over tokens instead of a sum over tokens",
    ),
)  # fmt: skip
