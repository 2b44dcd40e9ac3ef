"""VkD: features through an orthogonal projector, which can learn nothing in the student's place."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.classification import cross_entropy, kl
from limbeck.parts.features import linear_projector, orthogonal_projector, standardised_features, whitened_features
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.probes.classification import accuracy
from limbeck.probes.features import gram_gap
from limbeck.recipe import Arm, Claim, Learn, Phase, Recipe, Tune, more, within
from limbeck.roles import built, frozen, learning

optimizer = adamw(lr=cosine(start=1e-3, warmup=0.05), weight_decay=0.05)
loss = terms(labels=cross_entropy(), soft=1.0 * kl(temperature=1.0), features=1.0 * standardised_features())
GRID = {"student.optimizer.lr.start": (3e-3, 1e-2), "distill.student.loss.features.weight": (0.1, 0.3, 1.0)}

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
    claim=Claim(
        bed="digits_few",
        arms={
            "vkd": Arm(set={"projector.optimizer.lr.start": 1e-2}),
            "free": Arm(set={"projector.optimizer.lr.start": 1e-2, "projector.builder": linear_projector()}),
            "feature-mse": Arm("feature-mse", {"projector.optimizer.lr.start": 1e-2}),
            "alone": Arm("alone"),
        },
        probes={"accuracy": accuracy(), "gram_gap": gram_gap()},
        says=(
            more("accuracy", "vkd", "feature-mse", by=0.005),
            more("accuracy", "vkd", "alone", by=0.005),
            more("accuracy", "vkd", "free", by=0.005),
            within("gram_gap", "vkd", 1e-4),
        ),
        set={"distill.steps": 400, "distill.batch_size": 32},
        tune=Tune(
            "accuracy",
            {arm: GRID for arm in ("vkd", "free", "feature-mse")}
            | {"alone": {"student.optimizer.lr.start": (1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2)}},
            seeds=2,
        ),
        seeds=5,
        control="free",
    ),
)
