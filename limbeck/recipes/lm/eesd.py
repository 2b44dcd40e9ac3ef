"""EESD: a language model's first layers learn, by one layer on top of them, to draft what the whole model would say."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.early_exit import early_exit
from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import rollout
from limbeck.parts.schedule import cosine
from limbeck.parts.token import cross_entropy, forward_kl
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import built, frozen

loss = terms(labels=cross_entropy(), teacher=1.0 * forward_kl())

recipe = Recipe(
    key="eesd",
    title="Speculative Decoding via Early-exiting for Faster LLM Inference with Thompson Sampling Control Mechanism",
    paper="arXiv:2406.03853", family="lm", kind="method", learns="draft weights", teacher="white-box",
    players={
        "teacher": frozen(), "student": built(early_exit(layers=5), adamw(lr=cosine(start=3e-4, warmup=0.05))),
    },
    stages=(
        Make("ask", rows=rollout(max_new_tokens=256).on(student="teacher"), into="answers"),
        Learn("distill", (Phase("student", ("student",), loss),), epochs=1.0, batch_size=32, data="answers"),
    ),
    variants={
        "given-data": {"distill.data": "train"},
        "hard-labels": {"distill.student.loss": terms(labels=cross_entropy())},
    },
    deviates=(
        "the weight of the divergence, the depth of the exit, rate and epochs were not at hand: ours stand in",
        "the draft is saved as a model of its own, with a copy of the layers and of the output matrix that it shares",
        "the layer that learns begins as the next layer of the model",
        "the length of drafts is drawn while decoding (`speculate` with a `Belief`), without a guess from confidence",
    ),
)  # fmt: skip
