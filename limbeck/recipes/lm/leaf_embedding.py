"""LEAF: an embedder that answers in its teacher's space, learned from embeddings that were asked for once."""

from __future__ import annotations

from limbeck.parts.alignment import squared_distance, with_output_map
from limbeck.parts.embedding import remember
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import built, cached, frozen

optimizer = adamw(lr=cosine(start=1e-4, warmup=0.06))
loss = squared_distance().on(student="aligned", teacher="cache")

recipe = Recipe(
    key="leaf-embedding",
    title="LEAF: Knowledge Distillation of Text Embedding Models with Teacher-Aligned Representations",
    paper="arXiv:2509.12539",
    family="lm",
    kind="method",
    learns="student weights, output map",
    teacher="black-box",
    players={
        "student": frozen(),
        "teacher": frozen(),
        "cache": cached(),
        "aligned": built(with_output_map(), optimizer),
    },
    stages=(
        Make("ask", remember(), into="asked"),
        Learn("distill", (Phase("aligned", ("aligned",), loss),), epochs=3.0, batch_size=32, data="asked", clip=1.0),
    ),
    product="aligned",
    deviates=(
        "the paper's rate, schedule and number of epochs were not at hand: those of other embedders stand in",
        "the student keeps its own pooling; the paper's students pool by the mean",
    ),
)
