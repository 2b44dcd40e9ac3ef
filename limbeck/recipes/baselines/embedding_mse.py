"""Embedding MSE: unlabelled rows, and the teacher's embedding of each, asked for once."""

from __future__ import annotations

from limbeck.parts.embedding import cosine_distance, remember
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import cached, frozen, learning

loss = cosine_distance().on(teacher="cache")
optimizer = adamw(lr=cosine(start=5e-4, warmup=0.06), betas=(0.9, 0.98), weight_decay=0.0)

recipe = Recipe(
    key="embedding-mse",
    title="Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
    paper="arXiv:2004.09813",
    family="baselines",
    kind="method",
    learns="student weights",
    teacher="black-box",
    players={"student": learning(optimizer), "teacher": frozen(), "cache": cached()},
    stages=(
        Make("ask", remember(), into="asked"),
        Learn("distill", (Phase("student", ("student",), loss),), epochs=4.0, batch_size=32, data="asked", clip=1.0),
    ),
    deviates=(
        "one language, without the second loss on translations",
        "the cosine distance, half the squared error of embeddings of length one, so that lengths need not agree",
    ),
)
