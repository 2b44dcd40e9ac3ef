"""SFT: imitate given answers, without a teacher."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.parts.token import cross_entropy, sequence_mean
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import learning

imitate = (Phase("student", learns=("student",), loss=sequence_mean() * cross_entropy()),)

# for students that do not know the task yet: set warm.epochs or warm.steps
warm_up = Learn("warm", phases=imitate, epochs=0.0, batch_size=32)

recipe = Recipe(
    key="sft",
    title="Finetuned Language Models Are Zero-Shot Learners",
    paper="arXiv:2109.01652",
    family="baselines",
    kind="method",
    learns="student weights",
    teacher="none",
    players={"student": learning(adamw(lr=cosine(start=3e-4, warmup=0.05)))},
    stages=(Learn("distill", phases=imitate, steps=40_000, batch_size=32),),
    deviates=("the objective only: size and rate of the run are those of the recipes that it is compared with",),
)
