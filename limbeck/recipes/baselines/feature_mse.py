"""Feature MSE: labels, and the teacher's features through a free linear map."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.classification import cross_entropy
from limbeck.parts.features import feature_mse, linear_projector
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, frozen, learning

optimizer = adamw(lr=cosine(start=1e-3, warmup=0.05))
loss = terms(labels=cross_entropy(), features=1.0 * feature_mse())

recipe = Recipe(
    key="feature-mse",
    title="FitNets: Hints for Thin Deep Nets",
    paper="arXiv:1412.6550",
    family="baselines",
    kind="method",
    learns="student weights, projector",
    teacher="white-box",
    players={"student": learning(optimizer), "teacher": frozen(), "projector": built(linear_projector(), optimizer)},
    stages=(Learn("distill", (Phase("student", ("student", "projector"), loss),), epochs=100, batch_size=128),),
    deviates=("pooled features and labels in one stage, not a hidden layer in a stage of its own: the usual baseline",),
)
