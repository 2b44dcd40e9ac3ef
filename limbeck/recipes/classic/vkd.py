"""VkD: features through an orthogonal projector, which can learn nothing in the student's place."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.classification import cross_entropy, kl
from limbeck.parts.features import orthogonal_projector, standardised_features, whitened_features
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, frozen, learning

optimizer = adamw(lr=cosine(start=1e-3, warmup=0.05), weight_decay=0.05)
loss = terms(labels=cross_entropy(), soft=1.0 * kl(temperature=1.0), features=1.0 * standardised_features())

recipe = Recipe(
    key="vkd",
    title="V_kD: Improving Knowledge Distillation using Orthogonal Projections",
    paper="arXiv:2403.06213",
    family="classic",
    kind="method",
    learns="student weights, orthogonal projection",
    teacher="white-box",
    players={
        "student": learning(optimizer),
        "teacher": frozen(),
        "projector": built(orthogonal_projector(), optimizer),
    },
    stages=(Learn("distill", (Phase("student", ("student", "projector"), loss),), epochs=300, batch_size=1024),),
    variants={"generative": {"distill.student.loss.features": 1.0 * whitened_features()}},
    deviates=(
        "nets without a distillation token: the teacher's divergence is taken at the same head as the labels' loss",
        "no mixup, and Cayley's map in place of the matrix exponential: the same orthogonal matrices at less cost",
    ),
)
