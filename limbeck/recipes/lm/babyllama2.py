"""BabyLlama-2: two teachers of one small corpus, and a student of their size that outdoes them on it."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.parts.token import cross_entropy, forward_kl
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import ensemble, frozen, learning

loss = terms(labels=0.5 * cross_entropy(), teachers=0.5 * forward_kl(temperature=1.0).on(teacher="teachers"))

recipe = Recipe(
    key="babyllama2",
    title="BabyLlama-2: Ensemble-Distilled Models Consistently Outperform Teachers With Limited Data",
    paper="arXiv:2409.17312",
    family="lm",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={
        "student": learning(adamw(lr=cosine(start=7e-4, warmup=0.05), weight_decay=5.0)),
        "teacher": frozen(),
        "second": frozen(),
        "teachers": ensemble("teacher", "second"),
    },
    stages=(Learn("distill", (Phase("student", ("student",), loss),), epochs=8.0, batch_size=512),),
    variants={"one-teacher": {"distill.student.loss.teachers": 0.5 * forward_kl(temperature=1.0)}},
    deviates=(
        "the divergence is a mean over tokens, as the paper has it; its code sums it over the 128 places of a row",
        "the factor temperature^2 is part of the weight: at another temperature than 1 set that as well",
        "the teachers are given, trained before; the warm-up is a share of the steps and not 600 of them",
    ),
)
