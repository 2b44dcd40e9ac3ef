"""CurioSFT: imitate experts while being drawn towards one's own recent past, flattened where it was open anyway."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.exploration import flattened_forward_kl, flattened_square, over_length
from limbeck.parts.optimizer import adamw
from limbeck.parts.policy import clipped_surrogate, graded, group_standardised
from limbeck.parts.rollout import rollout
from limbeck.parts.schedule import cosine
from limbeck.parts.token import cross_entropy
from limbeck.parts.transcript import repeated
from limbeck.recipe import Learn, Phase, Recipe, Repeat
from limbeck.roles import copy_of, ema_of, learning

curious, whole = (part().on(student="novice", teacher="past") for part in (flattened_square, flattened_forward_kl))
loss = terms(expert=cross_entropy().on(student="novice"), curious=1.0 * curious)
tried = repeated(copies=8) >> rollout(max_new_tokens=8192) >> graded() >> group_standardised(copies=8)

recipe = Recipe(
    key="curiosft",
    title="Learning While Staying Curious: Entropy-Preserving Supervised Fine-Tuning via Adaptive Self-Distillation "
    "for Large Reasoning Models",
    paper="arXiv:2602.02244", family="lm", kind="method", learns="student weights", teacher="self",
    players={
        "student": learning(adamw(lr=1e-6)), "past": ema_of("novice", decay=0.01, every=5),
        "novice": copy_of("student", adamw(lr=cosine(start=1e-5, end=1e-9, warmup=0.1))),
    },
    stages=(
        Repeat("first", (Learn("imitate", (Phase("novice", ("novice",), loss),), epochs=3.0, batch_size=256),),
               carry={"student": "novice"}),
        Learn("explore", (Phase("student", ("student",), over_length(length=8192) * clipped_surrogate(), batch=tried),),
              steps=500, batch_size=32),
    ),
    variants={
        "full-kl": {"first.imitate.novice.loss.curious": whole},
        "unrewarded": {"explore.steps": 0, "explore.epochs": 0.0},
    },
    deviates=(
        "the flattened self is the student of a few steps before, 0.99 of it new every 5 steps, as the code has it",
        "the first stage learns a player of its own, whose weights the student takes: a rate for each stage",
        "answers are rewarded in one step each, 32 prompts at a time, not 128 in four; of the plain and the clipped "
        "loss ours takes the larger, as PPO has it, the code the smaller",
    ),
)  # fmt: skip
