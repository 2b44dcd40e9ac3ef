"""MiniLLM: reverse KL of whole answers, by an exact part for every token and a policy gradient for what follows it."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.given import given_cross_entropy, keep_given
from limbeck.parts.mixture_sampling import mixed_rollout
from limbeck.parts.optimizer import adamw
from limbeck.parts.policy import clipped_surrogate
from limbeck.parts.returns import length_normalised, log_ratio_returns, whitened
from limbeck.parts.schedule import cosine
from limbeck.parts.token import reverse_kl
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.recipes.baselines.sft import warm_up
from limbeck.roles import frozen, learning

optimizer = adamw(lr=cosine(start=5e-6, end=5e-6, warmup=0.02), betas=(0.9, 0.95), weight_decay=1e-6)
states = (
    keep_given() >> mixed_rollout(share=0.2, max_new_tokens=256)
    >> log_ratio_returns(scale=0.5, clip=100.0) >> length_normalised() >> whitened()
)  # fmt: skip
loss = terms(single=reverse_kl(), long=1.0 * clipped_surrogate(), language=1.0 * given_cross_entropy())

recipe = Recipe(
    key="minillm", title="MiniLLM: Knowledge Distillation of Large Language Models",
    paper="arXiv:2306.08543", family="lm", kind="method", learns="student weights", teacher="white-box",
    players={"student": learning(optimizer), "teacher": frozen()},
    stages=(
        warm_up,
        Learn(
            "distill", phases=tuple(Phase(f"epoch-{k}", ("student",), loss, batch=states) for k in range(1, 5)),
            steps=1250, batch_size=64, clip=1.0,
        ),
    ),
    deviates=(
        "the language-modelling term is on the rows' own answers: a stage reads one data set, and the paper's is of "
        "pre-training text",
        "64 answers serve four updates, where the paper takes 256 for sixteen: as many answers an update",
        "a token's own reward is not in its return, as in the paper; the public code counts it there once more",
        "the exact part has no importance weight, as in the public code; the paper's weighs it token by token",
        "advantages are whitened over targets alone; the public code counts padding in mean and variance",
    ),
)  # fmt: skip
